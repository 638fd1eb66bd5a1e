"""One run of a schedule by one rank: chunks as they arrive, gradients on their way home."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import torch

from warploom.distributed.agreement import agree
from warploom.distributed.layout import ChunkPool, Layout, Pool, Spec
from warploom.distributed.plan import Phase, Schedule
from warploom.distributed.reduction import Combine, Reduction, add
from warploom.distributed.rounds import Progress, Round, Rounds

if TYPE_CHECKING:
    from warploom.distributed.world import World


class Arrival(NamedTuple):
    """Chunks to compute on: step 0 has the rank's own, step r + 1 those of round r."""

    step: int
    chunks: dict[int, list[torch.Tensor]]


class Exchange:
    """A run of a schedule. Made by `World.exchange`; used once, as a context and an iterator.

        with world.exchange(schedule, own, layout) as run:
            for step, chunks in run:
                ...                       # the next round is under way meanwhile
                run.give(chunk, [dk, dv]) # for every chunk, where results come home
        run.results                       # {own chunk: [sum of dk, sum of dv]}

    The chunks of an arrival may be read until the iterator is asked for the next one, then their
    buffers are used again. Leaving the context before the last arrival, by an error or otherwise,
    ends the exchange on every rank.
    """

    def __init__(
        self,
        world: World,
        schedule: Schedule,
        own: Mapping[int, Sequence[torch.Tensor]],
        layout: Layout,
        *,
        contract: Mapping[str, object],
        pool: Pool | None,
        reduce: Layout | None,
        combine: Combine,
        timeout: float,
    ) -> None:
        self._world, self._schedule, self._layout = world, schedule, layout
        self._timeout, self._reduce, self._combine = timeout, reduce, combine
        self._own = {chunk: list(tensors) for chunk, tensors in own.items()}
        self._check()
        self._plan = world.plan(schedule)
        self._reduction: Reduction | None = None
        self._device = next((t.device for ts in self._own.values() for t in ts), world.device)
        self._contract = {
            "schedule": self._plan.text,
            **contract,
            "layout": layout.text,
            "results": reduce.text if reduce is not None else "none",
        }
        self._own_pool = ChunkPool(layout, world.buffers(self._device))
        self.pool: Pool = self._own_pool if pool is None else pool
        self.results_pool = (
            ChunkPool(reduce, world.buffers(self._device)) if reduce is not None else None
        )
        self.results: dict[int, list[torch.Tensor]] = {}
        self._held: dict[int, list[torch.Tensor]] = dict(self._own)
        self._present: Mapping[int, list[torch.Tensor]] = {}
        self._consumed: list[int] = []
        self._flying: dict[int, Round] = {}
        self._progress = Progress()
        self._state = "made"

    def _check(self) -> None:
        """Raises ValueError unless own chunks are complete and as the layout says."""
        world, schedule = self._world, self._schedule
        if schedule.ranks != world.size:
            raise ValueError(
                f"schedule is for {schedule.ranks} ranks, it must be for the world's {world.size}"
            )
        for name, layout in (("layout", self._layout), ("reduce", self._reduce)):
            if layout is not None and len(layout) != schedule.ranks * schedule.parts:
                raise ValueError(
                    f"{name} has {len(layout)} chunks, it must have ranks * parts = "
                    f"{schedule.ranks * schedule.parts}"
                )
        first = world.rank * schedule.parts
        if sorted(self._own) != list(range(first, first + schedule.parts)):
            raise ValueError(
                f"own has chunks {sorted(self._own)}, it must have rank {world.rank}'s: "
                f"{first} to {first + schedule.parts - 1}"
            )
        for chunk, tensors in self._own.items():
            check_tensors(f"own[{chunk}]", tensors, self._layout[chunk])
            for i, tensor in enumerate(tensors):
                world.transport.check(f"own[{chunk}][{i}]", tensor)

    def __enter__(self) -> Exchange:
        if self._state != "made":
            raise RuntimeError("an exchange is used once; make a new one")
        world = self._world
        run = world.begin(self)
        self._state = "running"
        try:
            agree(world.monitor, run, self._contract, self._timeout)
        except ValueError:
            world.end(self)  # nothing has moved, and every rank knows: the world stays usable
            self._state = "refused"
            raise
        except BaseException:
            world.end(self)
            raise

        def rounds(phase: Phase) -> Rounds:
            return Rounds(world.monitor, world.transport, run, phase, self._timeout, self._progress)

        self._rounds = rounds(self._plan.there)
        if self.results_pool is not None:
            self._reduction = Reduction(
                rounds(self._plan.back), self._plan, self.results_pool, self._combine
            )
        return self

    def __iter__(self) -> Iterator[Arrival]:
        if self._state != "running":
            raise RuntimeError("an exchange is iterated once, inside its context")
        self._state = "iterating"
        self._post(0)
        self._present = self._own
        yield Arrival(0, dict(self._own))
        self._after(0)
        for index in range(len(self._plan.there.rounds)):
            flight = self._flying[index]
            arrived = [t.chunk for t in self._plan.there.receives[index]]
            self._progress.step += 1
            self._rounds.wait(index, flight.receives)
            self._release(index)
            self._post(index + 1)
            self._present = {chunk: self._held[chunk] for chunk in arrived}
            yield Arrival(index + 1, dict(self._present))
            self._after(index + 1)
            self._consumed += arrived
        self._progress.step += 1
        for index, flight in self._flying.items():
            self._rounds.wait(index, flight.sends)
        for chunk in self._consumed:
            self.pool.give_back(chunk, self._held.pop(chunk))
        if self._reduction is not None:
            self.results = self._reduction.finish(self._own)
        for pool in (self._own_pool, self.results_pool):
            if pool is not None:
                pool.close()
        self._state = "finished"

    def give(self, chunk: int, partial: Sequence[torch.Tensor] | None) -> None:
        """Hands over what this rank computed from a chunk of the present arrival.

        partial: tensors as the layout `reduce` says; None where this rank adds nothing. They are
            combined in place, and must not be used afterwards.
        """
        if self._reduction is None or self._reduce is None:
            raise RuntimeError("give: this exchange was made without reduce")
        if chunk not in self._present or self._reduction.given(chunk):
            raise ValueError(f"chunk {chunk} is not of this arrival, or its result was given")
        if partial is not None:
            check_tensors(f"the result of chunk {chunk}", partial, self._reduce[chunk])
        elif self._combine is not add:
            raise ValueError(f"the result of chunk {chunk} is None, which only a sum can leave out")
        self._reduction.give(chunk, partial)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        world = self._world
        run = world.run
        world.end(self)
        if self._state == "finished":
            return
        reason = kind.__name__ if kind is not None else "before its last arrival"
        world.monitor.leave(run, reason)
        if kind is None:
            raise RuntimeError("an exchange was left before its last arrival")

    def _post(self, index: int) -> None:
        if index < len(self._plan.there.rounds):
            self._flying[index] = self._rounds.post(
                index, lambda t: self._held[t.chunk], lambda t: self._room(t.chunk)
            )

    def _room(self, chunk: int) -> list[torch.Tensor]:
        tensors = list(self.pool.take(chunk))
        check_tensors(f"pool.take({chunk})", tensors, self._layout[chunk])
        self._held[chunk] = tensors
        return tensors

    def _after(self, step: int) -> None:
        """What follows the computation on an arrival."""
        self._progress.step = 2 * step + 1
        if self._reduction is None:
            return
        absent = [chunk for chunk in self._present if not self._reduction.given(chunk)]
        if absent:
            raise RuntimeError(
                f"give the results of chunks {absent}, or None, before the next step"
            )
        self._reduction.advance(step)

    def _release(self, index: int) -> None:
        """Gives back the buffers that were computed on and whose last send was before `index`."""
        kept = []
        for chunk in self._consumed:
            last = self._plan.last_sent.get(chunk, -1)
            if last > index:
                kept.append(chunk)
                continue
            if last >= 0:
                flight = self._flying[last]
                mine = [f for f in flight.sends if f.transfer.chunk == chunk]
                flight.sends = [f for f in flight.sends if f.transfer.chunk != chunk]
                self._rounds.wait(last, mine)
            self.pool.give_back(chunk, self._held.pop(chunk))
        self._consumed = kept


def check_tensors(name: str, tensors: Sequence[torch.Tensor], specs: Sequence[Spec]) -> None:
    """Raises ValueError unless the tensors are contiguous and as specified."""
    given = [Spec.of(tensor) for tensor in tensors]
    if given != list(specs):
        raise ValueError(
            f"{name} is [{', '.join(map(str, given))}], it must be [{', '.join(map(str, specs))}]"
        )
    for i, tensor in enumerate(tensors):
        if not tensor.is_contiguous():
            raise ValueError(f"{name}[{i}] has strides {tensor.stride()}, it must be contiguous")
