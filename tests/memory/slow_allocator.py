"""A second model of the caching allocator: no lists of idle blocks, every question is answered by
looking through all segments. Slow, and made without the compiled one."""

from __future__ import annotations

from dataclasses import dataclass, field

from warploom.memory import Trace
from warploom.memory.allocator_options import AllocatorOptions

MIB = 1 << 20
NONE = 1 << 62


@dataclass
class Cell:
    start: int
    size: int
    state: str  # idle, held, waiting, unmapped
    request: int = -1
    born: int = 0


@dataclass
class Segment:
    start: int
    size: int
    pool: int
    stream: int
    small: bool
    page: int = 0  # of expandable segments
    cells: list[Cell] = field(default_factory=list)

    def merge(self, born: int) -> None:
        """Joins idle cells with idle ones and unmapped with unmapped."""
        merged: list[Cell] = []
        for cell in self.cells:
            last = merged[-1] if merged else None
            if last and cell.state == last.state and cell.state in ("idle", "unmapped"):
                last.size += cell.size
                last.born = born
            else:
                merged.append(cell)
        self.cells = merged

    def cut(self, place: int, size: int) -> None:
        """Makes the cell so large and a cell of the rest."""
        cell = self.cells[place]
        if size < cell.size:
            rest = Cell(cell.start + size, cell.size - size, cell.state, born=cell.born)
            self.cells.insert(place + 1, rest)
            cell.size = size


class SlowAllocator:
    def __init__(self, options: AllocatorOptions, capacity: int | None) -> None:
        self.options = options
        self.capacity = capacity or 1 << 46
        fraction = options.per_process_memory_fraction
        self.allowed = NONE if fraction is None else int(fraction * self.capacity)
        self.max_split = (options.max_split_size_mb or NONE // MIB) * MIB
        self.segments: list[Segment] = []
        self.address = 1 << 40
        self.searches = 0
        self.sizes: dict[int, int] = {}  # asked for, by request
        self.log: list[tuple[str, int, int, int, int]] = []

    # Sums are taken anew each time.
    def reserved(self) -> int:
        return sum(c.size for s in self.segments for c in s.cells if c.state != "unmapped")

    def allocated(self) -> int:
        return sum(c.size for s in self.segments for c in s.cells if c.state == "held")

    def note(self, action: str, address: int, size: int) -> None:
        self.log.append((action, address, size, self.reserved(), self.allocated()))

    def rounded(self, size: int) -> int:
        if size < 512:
            return 512
        interval = 0
        while interval < 15 and size >= 2 * MIB << interval:
            interval += 1
        parts = self.options.roundup_power2_divisions[interval]
        if parts > 0 and size > 512 * parts:
            if parts == 1:
                return size
            floor = 1
            while 2 * floor <= size:
                floor *= 2
            steps = range(floor, 2 * floor + 1, floor // parts)
            return min(step for step in steps if step >= size)
        return -(-size // 512) * 512

    def new_addresses(self, size: int, unit: int) -> int:
        start = -(-self.address // unit) * unit
        self.address = start + size
        return start

    def lane(self, pool: int, stream: int, small: bool) -> list[Segment]:
        return [s for s in self.segments if (s.pool, s.stream, s.small) == (pool, stream, small)]

    def allocate(self, request: int, size: int, stream: int, pool: int) -> bool:
        rounded = self.rounded(size)
        small = rounded <= MIB
        where = (pool, stream, small)
        collects = self.options.garbage_collection_threshold is not None
        if collects and pool == 0 and not small:
            self.searches += 1
        found = self.search(where, rounded)
        if found is None:
            if collects:
                self.collect()
            found = self.take(where, rounded)
            if found is None and self.return_oversize(where, rounded):
                found = self.take(where, rounded)
            if found is None:
                self.empty_cache()
                found = self.take(where, rounded)
        if found is None:
            self.note("oom", 0, rounded)
            return False
        segment, cell = found
        rest = cell.size - rounded
        if small or self.options.expandable_segments:
            split = rest >= 512
        else:
            split = rounded < self.max_split and rest > MIB
        if split:
            place = segment.cells.index(cell)
            segment.cut(place, rounded)
            segment.cells[place + 1].born = self.searches
        cell.state, cell.request = "held", request
        self.sizes[request] = size
        self.note("alloc", cell.start, size)
        return True

    def search(self, where: tuple[int, int, bool], size: int) -> tuple[Segment, Cell] | None:
        fitting = sorted(
            (cell.size, cell.start, number, place)
            for number, s in enumerate(self.segments)
            for place, cell in enumerate(s.cells)
            if (s.pool, s.stream, s.small) == where and cell.state == "idle" and cell.size >= size
        )
        if not fitting:
            return None
        best = 0
        if self.options.expandable_segments:
            while best + 1 < len(fitting):
                if self.reach(*fitting[best + 1][2:]) >= self.reach(*fitting[best][2:]):
                    break
                best += 1
        segment = self.segments[fitting[best][2]]
        cell = segment.cells[fitting[best][3]]
        if size < self.max_split <= cell.size:
            return None
        rounding = self.options.max_non_split_rounding_mb * MIB
        if size >= self.max_split and cell.size >= size + rounding:
            return None
        return segment, cell

    def reach(self, segment: int, place: int) -> int:
        cells = self.segments[segment].cells
        after = cells[place + 1] if place + 1 < len(cells) else None
        return cells[place].size + (after.size if after and after.state == "unmapped" else 0)

    def take(self, where: tuple[int, int, bool], size: int) -> tuple[Segment, Cell] | None:
        if where[2]:
            need = 2 * MIB
        elif size < 10 * MIB:
            need = 20 * MIB
        else:
            need = -(-size // (2 * MIB)) * 2 * MIB
        if self.reserved() + need > self.allowed:
            return None
        if self.options.expandable_segments:
            return self.expand(where, size)
        if self.reserved() + need > self.capacity:
            return None
        segment = Segment(self.new_addresses(need, 2 * MIB), need, *where)
        segment.cells = [Cell(segment.start, need, "idle", born=self.searches)]
        self.segments.append(segment)
        self.note("segment_alloc", segment.start, need)
        return segment, segment.cells[0]

    def expand(self, where: tuple[int, int, bool], size: int) -> tuple[Segment, Cell] | None:
        segment, place = self.room(where, size)
        while True:
            cell = segment.cells[place]
            if cell.state == "idle" and cell.size >= size:
                return segment, cell
            have = cell.size if cell.state == "idle" else 0
            unmapped = place + (cell.state == "idle")
            want = min(size - have, segment.cells[unmapped].size)
            want = -(-want // segment.page) * segment.page
            if self.reserved() + want > self.capacity:
                return None
            segment.cut(unmapped, want)
            segment.cells[unmapped].state = "idle"
            self.note("segment_map", segment.cells[unmapped].start, want)
            start = cell.start
            segment.merge(self.searches)
            place = next(
                n for n, c in enumerate(segment.cells) if c.start <= start < c.start + c.size
            )

    def room(self, where: tuple[int, int, bool], size: int) -> tuple[Segment, int]:
        """The lowest unmapped cell, or the idle one before it, from where on there is room."""
        for segment in sorted(self.lane(*where), key=lambda s: s.start):
            for place, cell in enumerate(segment.cells):
                if cell.state != "unmapped":
                    continue
                first = place - (place > 0 and segment.cells[place - 1].state == "idle")
                total = 0
                for c in segment.cells[first:]:
                    if c.state not in ("idle", "unmapped") or total >= size:
                        break
                    total += c.size
                if total >= size:
                    return segment, first
        page = 2 * MIB if where[2] else 20 * MIB
        size = -(-(self.capacity + self.capacity // 8) // page) * page
        segment = Segment(self.new_addresses(size, page), size, *where, page=page)
        segment.cells = [Cell(segment.start, size, "unmapped")]
        self.segments.append(segment)
        return segment, 0

    def let_go(self, request: int) -> None:
        cell = self.cell(request)
        if cell is not None:
            cell.state = "waiting"
            self.note("free_requested", cell.start, self.sizes[request])

    def complete(self, request: int) -> None:
        cell = self.cell(request)
        if cell is None:
            return
        self.note("free_completed", cell.start, self.sizes[request])
        cell.state, cell.request, cell.born = "idle", -1, self.searches
        for segment in self.segments:
            if cell in segment.cells:
                segment.merge(self.searches)

    def cell(self, request: int) -> Cell | None:
        found = (c for s in self.segments for c in s.cells if c.request == request)
        return next(found, None)

    def empty_cache(self) -> None:
        waiting = [c for s in self.segments for c in s.cells if c.state == "waiting"]
        for cell in sorted(waiting, key=lambda c: c.start):
            self.complete(cell.request)
        for small in (False, True):
            lanes = [s for s in self.segments if s.pool == 0 and s.small == small]
            whole = [s for s in lanes if len(s.cells) == 1 and s.cells[0].state == "idle"]
            for segment in sorted(whole, key=lambda s: (s.stream, s.size, s.start)):
                if not segment.page:
                    self.give_back(segment)
            idle = [(s.stream, c.size, c.start, s) for s in lanes for c in s.cells
                    if s.page and c.state == "idle"]  # fmt: skip
            for _, _, start, segment in sorted(idle, key=lambda item: item[:3]):
                self.unmap(segment, next(c for c in segment.cells if c.start == start))

    def unmap(self, segment: Segment, cell: Cell) -> None:
        page = segment.page
        begin = -(-(cell.start - segment.start) // page) * page
        end = (cell.start + cell.size - segment.start) // page * page
        if begin >= end:
            return
        place = segment.cells.index(cell)
        if begin > cell.start - segment.start:
            segment.cut(place, begin - (cell.start - segment.start))
            place += 1
        segment.cut(place, end - begin)
        segment.cells[place].state = "unmapped"
        self.note("segment_unmap", segment.start + begin, end - begin)
        segment.merge(self.searches)
        if len(segment.cells) == 1:
            self.segments.remove(segment)

    def give_back(self, segment: Segment) -> None:
        self.segments.remove(segment)
        self.note("segment_free", segment.start, segment.size)

    def return_oversize(self, where: tuple[int, int, bool], size: int) -> bool:
        if self.max_split > NONE // 2 or self.options.expandable_segments:
            return False
        target = max(size, self.max_split)
        idle = [s for s in self.lane(*where) if any(c.state == "idle" and c.size >= self.max_split
                                                    for c in s.cells)]  # fmt: skip
        idle.sort(key=lambda s: (s.size, s.start))
        enough = [s for s in idle if s.size >= target]
        if enough:
            self.give_back(enough[0])
            return True
        returned = 0
        while idle and returned < target:
            returned += idle[-1].size
            self.give_back(idle.pop())
        return returned >= target

    def collect(self) -> None:
        threshold = self.options.garbage_collection_threshold
        assert threshold is not None
        target = self.reserved() - int(threshold * self.allowed)
        returned, progress = 0, True
        while target > 0 and returned < target and progress:
            whole = [s for s in self.segments if s.pool == 0 and not s.small and not s.page
                     and len(s.cells) == 1 and s.cells[0].state == "idle"]  # fmt: skip
            whole.sort(key=lambda s: (s.stream, s.size, s.start))
            ages = {id(s): self.searches - s.cells[0].born for s in whole}
            old = [s for s in whole if ages[id(s)] * len(whole) >= sum(ages.values())]
            for segment in old:
                returned += segment.size
                self.give_back(segment)
            progress = bool(old)


def replay(
    trace: Trace,
    options: AllocatorOptions,
    capacity: int | None,
    requested: list[int],
    empty_cache: list[int],
) -> tuple[SlowAllocator, int | None]:
    """Runs the trace; also returns the request that did not fit."""
    allocator = SlowAllocator(options, capacity)
    steps: list[tuple[int, int, int, int]] = [(time, 1, n, 0) for n, time in enumerate(empty_cache)]
    for number in range(len(trace)):
        if trace.size[number] == 0:
            continue
        steps.append((int(trace.alloc[number]), 2, number, 0))
        steps.append((requested[number], 0, number, 0))
        steps.append((int(trace.free[number]), 0, number, 1))
    for _, what, number, part in sorted(steps):
        if what == 1:
            allocator.empty_cache()
        elif what == 0 and part == 0:
            allocator.let_go(number)
        elif what == 0:
            allocator.complete(number)
        elif not allocator.allocate(
            number, int(trace.size[number]), int(trace.stream[number]), int(trace.pool[number])
        ):
            return allocator, number
    return allocator, None
