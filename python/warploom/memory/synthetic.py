"""Made traces: training steps, mixtures of experts, random requests, hard instances.

Equal arguments give equal traces.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from warploom.memory.trace import Trace, TraceBuilder


def random(requests: int, *, seed: int = 0, horizon: int | None = None) -> Trace:
    """Requests of sizes and lifetimes over several orders of magnitude, bytes of any number."""
    generator = np.random.default_rng(seed)
    horizon = horizon or 4 * requests
    alloc = np.sort(generator.integers(0, horizon, requests))
    life = np.exp(generator.uniform(0, np.log(max(horizon // 20, 2)), requests)).astype(np.int64)
    size = np.exp(generator.uniform(np.log(64), np.log(1 << 26), requests)).astype(np.int64)
    return Trace(size, alloc, alloc + np.maximum(life, 1), alignment=512)


def training(
    layers: int = 24,
    *,
    steps: int = 3,
    width: int = 1024,
    tokens: int = 8192,
    temporaries: int = 6,
    seed: int = 0,
) -> Trace:
    """Steps of a stack of layers: weights and optimizer state stay, what forward saves is freed
    backward in reverse, gradients live until the step's end, each layer has temporaries."""
    generator = np.random.default_rng(seed)
    builder = TraceBuilder(alignment=512)
    hidden = 2 * tokens * width
    saved = [hidden, 3 * hidden, hidden, 4 * hidden]
    extra = generator.integers(1, 5, (layers, temporaries)) * hidden // 2
    weights = [2 * 12 * width * width] * layers
    for layer, size in enumerate(weights):
        builder.alloc(("weight", layer), size, phase="before", site=f"layer {layer}: weight")
    for step in range(steps):
        _forward(builder, step, layers, saved, extra)
        _backward(builder, step, layers, saved, extra, weights)
        for layer, size in enumerate(weights):
            phase, site = f"optimizer {step}", f"layer {layer}: moments"
            if step == 0:
                builder.alloc(("moments", layer), 4 * size, phase=phase, site=site)
            builder.alloc("update", 2 * size, phase=phase, site=f"layer {layer}: update")
            builder.free("update")
            builder.free(("gradient", layer))
    return builder.finish()


def _forward(
    builder: TraceBuilder, step: int, layers: int, saved: list[int], extra: np.ndarray
) -> None:
    for layer in range(layers):
        phase, site = f"forward {step}", f"layer {layer}: saved"
        for place, size in enumerate(saved):
            builder.alloc(("saved", layer, place), size, phase=phase, site=site)
            _temporary(builder, extra[layer], place, phase, layer)


def _backward(
    builder: TraceBuilder,
    step: int,
    layers: int,
    saved: list[int],
    extra: np.ndarray,
    weights: list[int],
) -> None:
    phase = f"backward {step}"
    builder.alloc(("flow", layers), saved[0], phase=phase, site="loss")
    for layer in reversed(range(layers)):
        site = f"layer {layer}: gradient"
        for place in reversed(range(len(saved))):
            _temporary(builder, extra[layer], place, phase, layer)
            builder.free(("saved", layer, place))
        builder.alloc(("gradient", layer), weights[layer], phase=phase, site=site)
        builder.alloc(("flow", layer), saved[0], phase=phase, site=site)
        builder.free(("flow", layer + 1))
    builder.free(("flow", 0))


def _temporary(
    builder: TraceBuilder, sizes: np.ndarray, place: int, phase: str, layer: int
) -> None:
    """Two that overlap, as an op's input and output do."""
    first, second = (int(sizes[(2 * place + k) % len(sizes)]) for k in range(2))
    builder.alloc("first", first, phase=phase, site=f"layer {layer}: temporary")
    builder.alloc("second", second, phase=phase, site=f"layer {layer}: temporary")
    builder.free("first")
    builder.free("second")


def experts(
    layers: int = 12,
    *,
    experts: int = 16,
    steps: int = 3,
    width: int = 1024,
    tokens: int = 4096,
    seed: int = 0,
) -> Trace:
    """Steps of a mixture of experts: each expert's tokens, and so the sizes, differ every step."""
    generator = np.random.default_rng(seed)
    builder = TraceBuilder(alignment=512)
    row = 2 * width
    for layer in range(layers):
        builder.alloc(("weight", layer), experts * 8 * width * row, phase="before")
    for step in range(steps):
        phase = f"forward {step}"
        counts = generator.multinomial(2 * tokens, np.ones(experts) / experts, layers)
        for layer in range(layers):
            builder.alloc(("input", layer), tokens * row, phase=phase, site=f"layer {layer}: in")
            for expert, count in enumerate(counts[layer].tolist()):
                site = f"layer {layer}: expert {expert}"
                builder.alloc(("rows", layer, expert), count * row, phase=phase, site=site)
                builder.alloc("up", 4 * count * row, phase=phase, site=site)
                builder.alloc(("down", layer, expert), count * row, phase=phase, site=site)
                builder.free("up")
        phase = f"backward {step}"
        for layer in reversed(range(layers)):
            for expert, count in enumerate(counts[layer].tolist()):
                site = f"layer {layer}: expert {expert}"
                builder.alloc("again", 4 * count * row, phase=phase, site=site)
                builder.free(("down", layer, expert))
                builder.alloc("gradient", count * row, phase=phase, site=site)
                builder.free("again")
                builder.free(("rows", layer, expert))
                builder.free("gradient")
            builder.free(("input", layer))
    return builder.finish()


def hard(requests: int, *, capacity: int = 1 << 20, full: float = 0.1, seed: int = 0) -> Trace:
    """An instance without room: as minimalloc's public set, capacity equal to the maximum load.

    A rectangle of time and bytes is cut at random into rectangles, in two and as pinwheels, until
    they are enough, at about half as many times as there are requests. Then a part of them is left
    out or cut short, so that about ``full`` of the time stays filled to the last byte. A plan of
    ``capacity`` bytes exists. The planner's exact search was tuned on this class, and first fit by
    falling size does better on it than on ``harder``.

    Raises:
        ValueError: requests is less than 5, or capacity not a positive multiple of 1024.
    """
    _check_hard(requests, capacity)
    generator = np.random.default_rng(seed)
    times, unit = max(requests // 2, 4), capacity // 1024
    pieces = [(0, times, 0, 1024)]
    for _ in range(50 * requests):  # more than are asked for, as some are left out
        if len(pieces) >= requests * 1.15:
            break
        areas = np.array([(b - a) * (d - c) for a, b, c, d in pieces], float)
        chosen = int(generator.choice(len(pieces), p=areas / areas.sum()))
        pieces += _cut(generator, *pieces.pop(chosen), partial(_between, generator, 0.15))
    # Of the times in these windows nothing is taken away.
    kept = np.zeros(times, bool)
    for begin in generator.integers(0, times, 4):
        kept[begin : begin + max(int(full * times / 4), 1)] = True
    rows = []
    for a, b, c, d in pieces:
        inside = np.flatnonzero(kept[a:b])
        if len(inside) == 0 and generator.random() < 0.2:
            continue
        early, late = (inside[0], inside[-1] + 1) if len(inside) else ((b - a) // 2, (b - a) // 2)
        first = a + (int(generator.integers(0, early + 1)) if generator.random() < 0.4 else 0)
        room = b - a - max(late, first - a + 1)
        last = b - (int(generator.integers(0, room + 1)) if generator.random() < 0.4 else 0)
        rows.append((first, last, (d - c) * unit))
    table = np.array(rows, np.int64)
    alloc, free, size = table[generator.permutation(len(table))].T
    return Trace(size, alloc, free)


def harder(requests: int, *, capacity: int = 1 << 20, full: float = 0.1, seed: int = 0) -> Trace:
    """An instance without room, on which simple placement fails by more than on ``hard``.

    A rectangle of time and bytes is cut as in ``hard``, until it is in as many pieces as there are
    requests; then lives begin late and end early, each at a time of its own, so that at least about
    ``full`` of the time stays filled to the last byte. A plan of ``capacity`` bytes exists; sizes
    and times have no pattern.

    Raises:
        ValueError: requests is less than 5, or capacity not a positive multiple of 1024.
    """
    _check_hard(requests, capacity)
    generator = np.random.default_rng(seed)
    horizon, unit = capacity, capacity // 1024
    pieces = [(0, horizon, 0, capacity)]
    inner = partial(_on_grid, generator, unit)
    for _ in range(50 * requests):  # more than are needed, as a piece may be too small to cut
        if len(pieces) >= requests:
            break
        areas = np.array([(b - a) * (d - c) for a, b, c, d in pieces], float)
        chosen = int(generator.choice(len(pieces), p=areas / areas.sum()))
        pieces += _cut(generator, *pieces.pop(chosen), inner)
    # Times in these windows keep all that they hold.
    at = generator.uniform(0, 1 - full / 4, 4) * horizon
    windows = [(int(w), int(w + full / 4 * horizon)) for w in at]
    rows = []
    for a, b, c, d in pieces:
        kept = [(max(a, w), min(b, v)) for w, v in windows if a < v and w < b]
        low = min((w for w, _ in kept), default=b)
        high = max((v for _, v in kept), default=a)
        first = a + int(generator.uniform(0, 0.3) * max(min(low, b) - a, 0))
        last = b - int(generator.uniform(0, 0.3) * max(b - max(high, first), 0))
        if last > first:
            rows.append((first, last, d - c))
    table = np.array(rows, np.int64)
    alloc, free, size = table[generator.permutation(len(table))].T
    return Trace(size, alloc, free)


def _check_hard(requests: int, capacity: int) -> None:
    if requests < 5:
        raise ValueError(f"requests is {requests}: must be at least 5")
    if capacity < 1024 or capacity % 1024:
        raise ValueError(f"capacity is {capacity}: must be a positive multiple of 1024")


def _between(generator: np.random.Generator, margin: float, low: int, high: int) -> tuple[int, int]:
    """Two numbers in between, in order."""
    first, second = np.sort(generator.uniform(margin, 1 - margin, 2))
    return low + round(first * (high - low)), low + round(second * (high - low))


def _on_grid(generator: np.random.Generator, unit: int, low: int, high: int) -> tuple[int, int]:
    """Two numbers in between, in order, whole units above the lower end."""
    first, second = np.sort(generator.uniform(0.2, 0.8, 2))
    cuts = [low + int(part * (high - low)) // unit * unit for part in (first, second)]
    return cuts[0], cuts[1]


def _cut(
    generator: np.random.Generator,
    a: int,
    b: int,
    c: int,
    d: int,
    inner: Callable[[int, int], tuple[int, int]],
) -> list[tuple[int, int, int, int]]:
    """Times [a, b) and bytes [c, d) in two, or in five that turn round a middle; ``inner`` says
    where."""
    (t1, t2), (h1, h2) = inner(a, b), inner(c, d)
    if a < t1 < t2 < b and c < h1 < h2 < d and generator.random() < 0.3:
        return [
            (a, t2, c, h1),
            (t2, b, c, h2),
            (t1, b, h2, d),
            (a, t1, h1, d),
            (t1, t2, h1, h2),
        ]
    if a < t1 < b and (generator.random() < 0.5 or not c < h1 < d):
        return [(a, t1, c, d), (t1, b, c, d)]
    return [(a, b, c, h1), (a, b, h1, d)] if c < h1 < d else [(a, b, c, d)]
