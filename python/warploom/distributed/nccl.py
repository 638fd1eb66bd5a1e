"""Messages over NCCL, on its own stream: the host waits for none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from warploom.distributed.transport import Label, Message, Posted


@dataclass
class Batch:
    """NCCL's works of one round, and what of the posting stream was before them."""

    works: list[Any]
    before: torch.cuda.Event


class NcclTransport:
    """NCCL's messages, on its own stream: a round is one batch, and the host waits for none."""

    asynchronous = True

    def __init__(self, group: Any, device: torch.device) -> None:
        self._group, self._device = group, device

    def post(self, label: Label, sends: Sequence[Message], receives: Sequence[Message]) -> Posted:
        operations = [self._operation(dist.irecv, m) for m in receives]
        operations += [self._operation(dist.isend, m) for m in sends]
        if not operations:
            return Posted([], [])
        before = torch.cuda.current_stream(self._device).record_event()
        batch = Batch(dist.batch_isend_irecv(operations), before)
        return Posted([batch] * len(sends), [batch] * len(receives))

    def _operation(self, kind: Any, message: Message) -> dist.P2POp:
        peer = dist.get_global_rank(self._group, message.peer)
        return dist.P2POp(kind, message.tensor, peer, self._group, message.tag)

    def wait(self, handle: Batch) -> None:
        for work in handle.works:
            work.wait()  # the current stream waits, the host goes on

    def done(self, handle: Batch) -> bool:
        return all(work.is_completed() for work in handle.works)

    def ready(self, handle: Batch) -> bool:
        return bool(handle.before.query())

    def check(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.device != self._device:
            raise ValueError(f"{name} is on {tensor.device}, it must be on {self._device}")

    def abort(self) -> None:
        self._group.abort()  # the communicators; kernels that wait end, with nothing in their place

    def close(self) -> None:
        pass
