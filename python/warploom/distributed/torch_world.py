"""Ranks of a torch.distributed process group: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import atexit
import os
import secrets
import time
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from warploom.distributed.gloo import GlooTransport
from warploom.distributed.links import SocketLink, address_towards, check_addresses
from warploom.distributed.monitor import Monitor
from warploom.distributed.nccl import NcclTransport
from warploom.distributed.transport import Label, Message, Transport
from warploom.distributed.world import TIMEOUT, World

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


class TorchWorld(World):
    """A rank of a torch.distributed process group.

    Every rank of the group makes it, in the same order where there are several. It needs a group of
    its own if anything else sends point-to-point messages meanwhile.

    Args:
      group: the process group, the default one if None.
      timeout: seconds that a wait may last where an exchange says nothing else, and in which all
          ranks must have made their world. It should be shorter than the group's own timeout.
      device: where tensors live; the current GPU if the group has NCCL, else the CPU. A group with
          both backends serves either.
      address: where other ranks reach this one for words about the exchange, on a port chosen
          free; if None, that of the interface which leads to the group's store.

    Raises:
      ValueError: a group whose backend is neither gloo nor NCCL, an address others cannot reach.
      TimeoutError, ConnectionError: ranks that did not come, named.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        timeout: float = TIMEOUT,
        device: torch.device | str | None = None,
        address: str | None = None,
    ) -> None:
        group = dist.group.WORLD if group is None else group
        if group is None:
            raise ValueError(
                "group is None and there is no default process group: call "
                "torch.distributed.init_process_group first, in a program that torchrun starts"
            )
        monitor = Monitor(dist.get_rank(group), dist.get_world_size(group))
        place = device_of(group) if device is None else torch.device(device)
        transport = make_transport(group, place, monitor)
        super().__init__(monitor, transport, place, timeout)
        self.group = group
        try:
            self._link = join(group, monitor, timeout, address)
        except BaseException:
            transport.close()
            raise
        self.one_machine = len(self._link.hosts) == 1
        monitor.link = self._link
        monitor.on_failure = transport.abort
        _open.add(self)
        if transport.asynchronous:
            self._warm_up()

    def _warm_up(self) -> None:
        """NCCL wants all ranks in the first batch of a group."""
        if self.size == 1:
            return
        tensors = torch.zeros(2, 1, device=self.device)
        right, left = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        label = Label(0, "exchange", 0)
        posted = self.transport.post(
            label, [Message(right, tensors[0], 0)], [Message(left, tensors[1], 0)]
        )
        end = time.monotonic() + self.timeout
        while not self.transport.done(posted.sends[0]):
            self.check()
            if time.monotonic() > end:
                self.transport.abort()
                raise TimeoutError(
                    f"no message from rank {left} or to rank {right} in {self.timeout:g} s"
                )
            time.sleep(0.001)

    def close(self) -> None:
        super().close()
        self._link.close()


_open: weakref.WeakSet[TorchWorld] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A process that ends in good order says so: the others can tell it from one that died."""
    for world in list(_open):
        world.close()


def device_of(group: Any) -> torch.device:
    """The current GPU for a group that has NCCL, else the CPU."""
    if "nccl" in str(dist.get_backend_config(group)):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def make_transport(group: Any, device: torch.device, monitor: Monitor) -> Transport:
    """The transport of the group's backend for a device."""
    if device.type not in BACKENDS:
        raise ValueError(f"device is {device}, it must be one of {', '.join(BACKENDS)}")
    backends = str(dist.get_backend_config(group))
    if BACKENDS[device.type] not in backends:
        raise ValueError(
            f"group has the backends {backends}, for {device} it must have {BACKENDS[device.type]}"
        )
    if device.type == "cuda":
        return NcclTransport(group, device)
    return GlooTransport(group, monitor)


def join(group: Any, monitor: Monitor, timeout: float, address: str | None) -> SocketLink:
    """Connects the ranks: each leaves its endpoint in the group's store and reads the others'."""
    store = dist.distributed_c10d._get_process_group_store(group)
    count = store.add(f"warploom worlds of rank {monitor.rank}", 1)
    store = PrefixStore(f"warploom/{count}", store)  # keys of its own for each world
    link = SocketLink(monitor, address or own_address(store), timeout)
    try:
        if monitor.rank == 0:
            store.set("token", secrets.token_hex(16))
        store.set(f"endpoint {monitor.rank}", link.endpoint)
        endpoints = all_endpoints(store, monitor.size, timeout)
        check_addresses({rank: endpoint.split()[0] for rank, endpoint in endpoints.items()})
        link.join(endpoints, bytes.fromhex(store.get("token").decode()))
    except BaseException:
        link.close()
        raise
    return link


def all_endpoints(store: Any, size: int, timeout: float) -> dict[int, str]:
    """Every rank's endpoint, once it is there. TimeoutError naming the ranks that left none."""
    keys = {rank: f"endpoint {rank}" for rank in range(size)}
    end = time.monotonic() + timeout
    while absent := [rank for rank, key in keys.items() if not store.check([key])]:
        if time.monotonic() > end:
            raise TimeoutError(f"ranks {absent} did not make their world in {timeout:g} s")
        time.sleep(0.01)
    return {rank: store.get(key).decode() for rank, key in keys.items()}


def own_address(store: Any) -> str:
    """The address of the interface that leads to where the store is."""
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    host = getattr(store, "host", None) or os.environ.get("MASTER_ADDR")
    if host is None:
        raise ValueError(
            "address must be given: the group's store does not say where it is; make a "
            "TorchWorld(group, address=...), which stands for the group wherever one is asked for"
        )
    return address_towards(host)
