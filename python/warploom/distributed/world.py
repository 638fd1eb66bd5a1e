"""A rank's place among others that it exchanges tensors with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

import torch

from warploom.distributed.exchange import Exchange
from warploom.distributed.layout import Buffers, Layout, Pool
from warploom.distributed.monitor import Monitor
from warploom.distributed.plan import Plan, Schedule
from warploom.distributed.reduction import Combine, add
from warploom.distributed.transport import Transport

TIMEOUT = 60.0  # seconds


class World:
    """One rank of several. `TorchWorld` and `SimulatedWorld` make them.

    All ranks make the same exchanges in the same order, one at a time. After a failure a world only
    repeats it: close it and make a new one.

    Attributes:
      rank, size: this rank's number and how many there are.
      device: where tensors that are exchanged live.
      timeout: seconds that a wait may last where a call says nothing else.
      one_machine: whether all ranks are processes or threads of one machine.
    """

    one_machine = False

    def __init__(
        self, monitor: Monitor, transport: Transport, device: torch.device, timeout: float = TIMEOUT
    ) -> None:
        self.monitor, self.transport = monitor, transport
        self.rank, self.size = monitor.rank, monitor.size
        self.device, self.timeout = device, timeout
        self.run = 0  # exchanges begun; the number of the last one
        self._running: Exchange | None = None
        self._buffers: dict[torch.device, Buffers] = {}
        self._plans: WeakKeyDictionary[Schedule, Plan] = WeakKeyDictionary()
        self._closed = False

    def exchange(
        self,
        schedule: Schedule,
        own: Mapping[int, Sequence[torch.Tensor]],
        layout: Layout,
        *,
        contract: Mapping[str, object] | None = None,
        pool: Pool | None = None,
        reduce: Layout | None = None,
        combine: Combine = add,
        timeout: float | None = None,
    ) -> Exchange:
        """A run of a schedule by this rank; see `Exchange` for its use.

        Args:
          schedule: who sends which chunk to whom in which round.
          own: this rank's chunks by number (rank * parts + part): lists of contiguous tensors.
          layout: shapes and dtypes of every chunk's tensors.
          contract: whatever else must be equal on all ranks (a mask, a scale), compared as text
              together with the schedule and the layout before any data moves.
          pool: where arriving chunks are put; buffers of the exchange's own unless given.
          reduce: layout of what each rank computes from a chunk and its owner gets back, for
              gradients `layout.with_dtype(torch.float32)`; None where nothing comes home.
          combine: takes a partial result into a total in place, in the schedule's fixed order.
          timeout: seconds that any one wait may last; the world's unless given.

        Raises:
          ValueError: an argument that does not fit; RanksDisagreeError, on entering, on all ranks.
          RankStalledError (a TimeoutError): a rank did not take part in time.
          RankLostError (a ConnectionError): a rank is gone, or left.
        """
        seconds = self.timeout if timeout is None else timeout
        if not seconds > 0:
            raise ValueError(f"timeout is {seconds}, it must be above 0 seconds")
        return Exchange(
            self,
            schedule,
            own,
            layout,
            contract=contract or {},
            pool=pool,
            reduce=reduce,
            combine=combine,
            timeout=float(seconds),
        )

    def check(self) -> None:
        """Raises what an earlier exchange failed with, if one did."""
        self.monitor.check(later=True)

    def buffers(self, device: torch.device) -> Buffers:
        """What exchanges of this world leave to the next ones."""
        if device not in self._buffers:
            self._buffers[device] = Buffers(device)
        return self._buffers[device]

    def plan(self, schedule: Schedule) -> Plan:
        """This rank's part of a schedule, kept as long as the schedule."""
        if schedule not in self._plans:
            self._plans[schedule] = Plan(schedule, self.rank)
        return self._plans[schedule]

    def begin(self, exchange: Exchange) -> int:
        """Counts a run that starts. RuntimeError on a closed world or during another run."""
        if self._closed:
            raise RuntimeError("the world is closed; make a new one")
        self.check()
        if self._running is not None:
            raise RuntimeError("another exchange of this world is running; they go one at a time")
        self._running = exchange
        self.run += 1
        for buffers in self._buffers.values():
            buffers.next_turn()
        return self.run

    def end(self, exchange: Exchange) -> None:
        """The run is over, finished or not."""
        if self._running is exchange:
            self._running = None

    def close(self) -> None:
        """Tells the other ranks goodbye and gives back what the world holds. May be repeated."""
        if self._closed:
            return
        self._closed = True
        finished = self.run if self._running is None else self.run - 1
        self.monitor.goodbye(finished)
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
