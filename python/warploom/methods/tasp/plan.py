"""What one rank computes in each round of a schedule: from shapes alone, never from values.

The keys that arrive in a round are laid into one buffer, in an order that puts next to each other
those that the same queries see whole: they make one call of attention, however many chunks they
came in. The order of calls, and so of all sums, follows from the schedule and the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from warploom.collectives import Schedule
from warploom.mask import NO_LIMIT, Mask
from warploom.methods.tasp.groups import Stage
from warploom.methods.tasp.partition import Partition
from warploom.methods.tasp.visibility import Rectangle, Span, rectangles


class Call(NamedTuple):
    """One call of attention: a rectangle of this rank's query rows and a buffer's key rows.

    With ``documents``, offsets of documents that cut its queries and its keys alike.
    """

    rectangle: Rectangle
    documents: tuple[int, ...] | None = None


class Slot(NamedTuple):
    """Where ``rows`` rows of a chunk lie: from ``source`` at their owner, from ``target`` here."""

    source: int
    target: int
    rows: int


class Round(NamedTuple):
    """Keys that come together: where each chunk's pieces go, and the calls on them.

    ``slots`` are in the order of the owner's rows, as the pieces travel.
    """

    rows: int
    slots: dict[int, tuple[Slot, ...]]
    calls: tuple[Call, ...]

    def touched(self, chunk: int) -> bool:
        """Whether a call reads any of the chunk's keys."""
        return any(
            call.rectangle.k0 < slot.target + slot.rows and slot.target < call.rectangle.k1
            for slot in self.slots.get(chunk, ())
            for call in self.calls
        )


class Plan(NamedTuple):
    """A run of a schedule by one rank: step 0 has its own keys, step t + 1 those of round t."""

    steps: tuple[Round, ...]
    step_of: dict[int, int]  # of each chunk


def plan(partition: Partition, rank: int, mask: Mask, schedule: Schedule | Stage | None) -> Plan:
    """What ``rank`` computes when keys move by ``schedule``; None where none travel."""
    parts = schedule.parts if schedule is not None else 0
    steps = [_own_round(partition, rank, mask, parts)]
    for transfers in schedule.rounds if schedule is not None else ():
        chunks = [t.chunk for t in transfers if t.target == rank]
        steps.append(round_of(partition, rank, mask, chunks, parts))
    step_of = {chunk: step for step, found in enumerate(steps) for chunk in found.slots}
    return Plan(tuple(steps), step_of)


def _own_round(partition: Partition, rank: int, mask: Mask, parts: int) -> Round:
    """Own keys lie where their owner has them."""
    slots = {
        rank * parts + part: tuple(
            Slot(piece.row, piece.row, piece.span.length)
            for piece in partition.pieces(rank, part, parts)
        )
        for part in range(parts)
    }
    return Round(partition.rows(rank), slots, own_calls(partition, rank, mask))


def own_calls(partition: Partition, rank: int, mask: Mask) -> tuple[Call, ...]:
    """The calls of a rank's queries on its own keys."""
    spans = partition.spans[rank]
    if not spans:
        return ()
    if mask.left == NO_LIMIT and mask.right in (NO_LIMIT, 0):
        # Only the order of positions matters, and rows are in that order.
        return (_square(0, partition.local_documents(spans), mask),)
    calls, rows = [], _starts(spans)
    for q, queries in zip(rows, spans, strict=True):
        for k, keys in zip(rows, spans, strict=True):
            if queries == keys:
                calls.append(_square(q, partition.local_documents([keys]), mask))
                continue
            for found in rectangles(queries, keys, partition.documents, mask):
                calls.append(Call(found.moved(q, k)))
    return tuple(calls)


def round_of(
    partition: Partition, rank: int, mask: Mask, chunks: Sequence[int], parts: int
) -> Round:
    """The round in which ``chunks`` (numbered owner * parts + part) come to ``rank``."""
    spans = partition.spans[rank]
    rows = _starts(spans)
    pieces = []
    for chunk in chunks:
        for piece in partition.pieces(*divmod(chunk, parts), parts):
            seen = _joined_queries(
                found.moved(q, 0)
                for q, queries in zip(rows, spans, strict=True)
                for found in rectangles(queries, piece.span, partition.documents, mask)
            )
            pieces.append((chunk, piece, seen))
    # By the queries that see the piece, so that neighbours can be joined; then as they came.
    pieces.sort(key=lambda entry: [(found.q0, found.q1) for found in entry[2]])
    slots: dict[int, list[Slot]] = {chunk: [] for chunk in chunks}
    calls: list[Rectangle] = []
    row = 0
    for chunk, piece, seen in pieces:
        slot = Slot(piece.row, row, piece.span.length)
        slots[chunk].append(slot)
        for found in seen:
            _join_keys(calls, found.moved(0, row))
        row += slot.rows
    placed = {chunk: tuple(sorted(found)) for chunk, found in slots.items()}
    return Round(row, placed, tuple(Call(found) for found in calls))


def query_calls(
    partition: Partition, rank: int, mask: Mask, chunk: int, parts: int
) -> tuple[Call, ...]:
    """The calls of a chunk of another rank's queries on this rank's keys."""
    spans = partition.spans[rank]
    calls: list[Rectangle] = []
    row = 0
    for piece in partition.pieces(*divmod(chunk, parts), parts):
        for start, keys in zip(_starts(spans), spans, strict=True):
            for found in rectangles(piece.span, keys, partition.documents, mask):
                _join_keys(calls, found.moved(row, start))
        row += piece.span.length
    return tuple(Call(found) for found in calls)


def _starts(spans: Sequence[Span]) -> list[int]:
    """The row at which each span starts."""
    starts, row = [], 0
    for span in spans:
        starts.append(row)
        row += span.length
    return starts


def _square(row: int, documents: tuple[int, ...], mask: Mask) -> Call:
    """As many queries as keys, the same positions."""
    rectangle = Rectangle(row, row + documents[-1], row, row + documents[-1], mask)
    return Call(rectangle, documents if len(documents) > 2 else None)


def _joined_queries(found: Iterable[Rectangle]) -> list[Rectangle]:
    """Neighbours that see the same keys whole become one."""
    joined: list[Rectangle] = []
    for new in found:
        old = joined[-1] if joined else None
        same = old is not None and (old.q1, old.k0, old.k1) == (new.q0, new.k0, new.k1)
        if old is not None and same and old.mask.is_full and new.mask.is_full:
            joined[-1] = old._replace(q1=new.q1)
        else:
            joined.append(new)
    return joined


def _join_keys(calls: list[Rectangle], new: Rectangle) -> None:
    """Adds to the calls; the last grows where the same queries see both whole."""
    old = calls[-1] if calls else None
    same = old is not None and (old.k1, old.q0, old.q1) == (new.k0, new.q0, new.q1)
    if old is not None and same and old.mask.is_full and new.mask.is_full:
        calls[-1] = old._replace(k1=new.k1)
    else:
        calls.append(new)
