"""What moves tensors between ranks: posted in groups, waited for one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch


class Message(NamedTuple):
    """A contiguous tensor on its way to or from a peer."""

    peer: int
    tensor: torch.Tensor
    tag: int


class Label(NamedTuple):
    """What a group of messages is for."""

    run: int
    phase: str
    round: int


@dataclass
class Posted:
    """Handles of what was posted together, in the order of the messages."""

    sends: list[Any]
    receives: list[Any]


class Transport(Protocol):
    """Point-to-point messages between ranks.

    Messages between two ranks match in the order in which both post them; tags tell where that
    order was broken. All ranks post the same rounds in the same order.
    """

    asynchronous: bool
    """Whether `wait` orders the current stream behind the work instead of blocking the host."""

    def post(self, label: Label, sends: Sequence[Message], receives: Sequence[Message]) -> Posted:
        """Starts sending and receiving; the tensors belong to the transport until waited for."""

    def wait(self, handle: Any) -> None:
        """Returns when the work is done, or ordered. The monitor keeps the deadline.

        Raises: the monitor's failure; RuntimeError if the transport itself failed.
        """

    def done(self, handle: Any) -> bool:
        """Whether asynchronous work is done, without waiting."""

    def ready(self, handle: Any) -> bool:
        """Whether asynchronous work could begin: what its tensors wait for is done."""

    def check(self, name: str, tensor: torch.Tensor) -> None:
        """Raises ValueError for a tensor that cannot be moved."""

    def abort(self) -> None:
        """Breaks all connections, from any thread, after the monitor has taken a failure."""

    def close(self) -> None:
        """Gives back what the transport holds."""
