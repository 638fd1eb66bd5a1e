"""The way home of results: partial ones combined in the order that the schedule fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from warploom.distributed.layout import Pool
from warploom.distributed.plan import Plan
from warploom.distributed.rounds import Round, Rounds

Combine = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], None]


def add(total: Sequence[torch.Tensor], partial: Sequence[torch.Tensor]) -> None:
    """Adds partial sums to a total, in place."""
    for into, part in zip(total, partial, strict=True):
        into.add_(part)


class Reduction:
    """One run's totals: a rank's own partial, then those received, as the schedule lists."""

    def __init__(self, rounds: Rounds, plan: Plan, pool: Pool, combine: Combine) -> None:
        self._rounds, self._pool, self._combine = rounds, pool, combine
        self._steps, self._sends = plan.gates, plan.back.sends
        self._totals: dict[int, list[torch.Tensor]] = {}
        self._given: set[int] = set()
        self._early: dict[int, list[list[torch.Tensor]]] = {}  # received before the own partial
        self._arriving: list[tuple[int, list[torch.Tensor]]] = []
        self._flying: Round | None = None
        self._next = 0

    def give(self, chunk: int, partial: Sequence[torch.Tensor] | None) -> None:
        """Takes this rank's own partial, None where it has none. The tensors are taken over."""
        self._given.add(chunk)
        if partial is not None:
            self._totals[chunk] = list(partial)
        for received in self._early.pop(chunk, []):
            self._take_in(chunk, received)

    def given(self, chunk: int) -> bool:
        return chunk in self._given

    def advance(self, step: int) -> None:
        """Posts every round that this step allows, each after the one before was combined."""
        while self._next < len(self._steps) and self._steps[self._next] <= step:
            self._finish_round()
            self._flying = self._rounds.post(
                self._next, lambda t: self._total(t.chunk), lambda t: self._room(t.chunk)
            )
            self._next += 1

    def finish(self, own: Iterable[int]) -> dict[int, list[torch.Tensor]]:
        """Posts and waits for what is left; the totals of the rank's own chunks."""
        self.advance(self._steps[-1] if self._steps else 0)
        self._finish_round()
        return {chunk: self._total(chunk) for chunk in own}

    def _finish_round(self) -> None:
        if self._flying is None:
            return
        self._rounds.wait(self._flying.index, self._flying.receives)
        for chunk, received in self._arriving:
            if chunk in self._given:
                self._take_in(chunk, received)
            else:
                self._early.setdefault(chunk, []).append(received)
        self._arriving = []
        self._rounds.wait(self._flying.index, self._flying.sends)
        for transfer in self._sends[self._flying.index]:
            del self._totals[transfer.chunk]
        self._flying = None

    def _take_in(self, chunk: int, received: list[torch.Tensor]) -> None:
        if chunk in self._totals:
            self._combine(self._totals[chunk], received)
            self._pool.give_back(chunk, received)
        else:
            self._totals[chunk] = received

    def _total(self, chunk: int) -> list[torch.Tensor]:
        """What there is of a chunk; zeros where no rank had anything to give."""
        if chunk not in self._totals:
            self._totals[chunk] = [tensor.zero_() for tensor in self._pool.take(chunk)]
        return self._totals[chunk]

    def _room(self, chunk: int) -> list[torch.Tensor]:
        self._arriving.append((chunk, self._pool.take(chunk)))
        return self._arriving[-1][1]
