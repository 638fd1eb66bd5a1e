"""The quantized cache's cases: every width against 16 bits, the machine and others' caches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from warploom.perf import ceilings
from warploom.perf import kv_cache_peers as peers
from warploom.perf.attention_peers import Lazy, identity
from warploom.perf.case import Case, Contender, Context, Goal, Metric, Role
from warploom.perf.kv_cache_peers import PagedJob

CEILINGS = True  # of the device, shown first
THREADS: tuple[int, ...] | None = None  # of the CPU, where none are asked for: 1 and all
_KEYS = 131072  # in all: at 2 bits, 32/8 heads of 128, still beyond any cache of a processor
_FAST = {8: 1.8, 4: 2.3, 2: 2.4}
_EXACT = 1.4
_BF16 = "bf16 pages"
_TRANSFORMERS = {4: ("quanto", "hqq"), 2: ("quanto", "hqq"), 8: ("hqq",)}


def cases(device: str) -> list[Case]:
    """The cases of a device, in the order in which they are shown."""
    on_gpu = device.startswith("cuda")
    listed = [decode_16(f"decode_16_{length // 1024}k", job(length, 16)) for length in _LENGTHS]
    for width in (8, 4, 2):
        for length in _LENGTHS:
            for precision in ("fast", "exact"):
                name = f"decode_{width}_{precision}_{length // 1024}k"
                least = _FAST[width] if precision == "fast" else _EXACT
                listed.append(decode(name, job(length, width), precision, least))
    for width in (4, 2):
        # No goal was set for keys per channel: never slower than 16 bits.
        channels = PagedJob((32768,) * (_KEYS // 32768), width, keys_per_channel=True)
        listed.append(decode(f"decode_{width}_fast_channels", channels, "fast", 1.0))
    for width in (8, 4, 2):
        small = PagedJob((1024,), width)
        listed.append(decode(f"decode_{width}_exact_short", small, "exact", 1.0))
    listed += [shrink(f"shrink_{bits}_{to}", bits, to) for bits, to in ((8, 4), (8, 2), (4, 2))]
    if not on_gpu:
        listed += [step(f"step_{width}_8k", width) for width in (8, 4, 2)]
        listed += [against_ggml(f"ggml_q{w}_0_{n // 1024}k", w, n) for w in (8, 4) for n in _SHORT]
    return listed


_LENGTHS = (8192, 32768, 65536)
_SHORT = (8192, 32768)


def job(length: int, width: int) -> PagedJob:
    return PagedJob((length,) * (_KEYS // length), width)


def decode_16(name: str, shape: PagedJob) -> Case:
    """One new token a sequence from 16-bit pages, bound by reading them."""

    def contenders(context: Context) -> Sequence[Contender]:
        one = shape.tiny() if context.quick else shape
        paged = Lazy(lambda: one.make(context.device))
        return [
            Contender(
                "warploom",
                Role.OURS,
                one.nbytes,
                lambda: peers.ours(paged(), "exact"),
                output=identity,
            ),
            Contender(
                "attention_decode",
                Role.PEER,
                one.nbytes,
                lambda: peers.plain_decode(paged()),
                output=identity,
            ),
            ceilings.read_bandwidth(context),
        ]

    goal = Goal(("read bandwidth",), at_least=0.85)
    return Case(name, str(shape), Metric.BYTES, contenders, (goal,), "bfloat16")


def decode(name: str, shape: PagedJob, precision: str, least: float) -> Case:
    """One new token a sequence from codes, against the same keys in 16 bits."""

    def contenders(context: Context) -> Sequence[Contender]:
        one = shape.tiny() if context.quick else shape
        return [
            Contender(
                "warploom",
                Role.OURS,
                one.keys,
                lambda: peers.ours(one.make(context.device), precision),
            ),
            Contender(
                _BF16,
                Role.REFERENCE,
                one.keys,
                lambda: peers.ours(one.at(16).make(context.device), "exact"),
            ),
        ]

    goal = Goal((_BF16,), at_least=least)
    return Case(name, f"{shape} {precision}", Metric.KEYS, contenders, (goal,), "bfloat16")


def shrink(name: str, bits: int, to: int) -> Case:
    """Blocks of a pool to fewer bits in place: bytes read and written."""

    def contenders(context: Context) -> Sequence[Contender]:
        blocks, count = (4, 1024) if context.quick else (32768, 8192)
        return [
            Contender(
                "warploom",
                Role.OURS,
                blocks * count * (bits + to) / 8,
                lambda: peers.shrinking(blocks, count, bits, to, context.device),
            ),
            ceilings.copy_bandwidth(context),
        ]

    goal = Goal(("copy bandwidth",), at_least=0.8)
    text = f"pages of 64 x 128, {bits} to {to} bits, in place"
    return Case(name, text, Metric.BYTES, contenders, (goal,))


def step(name: str, width: int) -> Case:
    """One layer's decode step: a token stored, and attended from; as generation calls it."""
    backends = _TRANSFORMERS[width]

    def contenders(context: Context) -> Sequence[Contender]:
        one = PagedJob((8192,), width)
        one = one.tiny() if context.quick else one
        listed = [Contender("warploom", Role.OURS, 1, lambda: peers.our_step(one, context.device))]
        for backend in backends:
            listed.append(
                Contender(
                    f"transformers {backend}",
                    Role.PEER,
                    1,
                    partial(peers.transformers_step, one, backend),
                    optional=True,
                )
            )
        return listed

    goals = (Goal(tuple(f"transformers {b}" for b in backends), at_least=10),)
    text = f"store a token and attend, {PagedJob((8192,), width)}"
    return Case(name, text, Metric.CALLS, contenders, goals, "bfloat16")


def against_ggml(name: str, width: int, length: int) -> Case:
    """llama.cpp's attention on its own quantized cache, of one sequence."""
    shape = PagedJob((length,), width)
    peer = f"ggml q{width}_0"

    def contenders(context: Context) -> Sequence[Contender]:
        one = shape.tiny() if context.quick else shape
        return [
            Contender(
                "warploom",
                Role.OURS,
                one.keys,
                lambda: peers.ours(one.make(context.device), "exact"),
            ),
            Contender(
                peer, Role.PEER, one.keys, lambda: peers.ggml(one, context.threads), optional=True
            ),
        ]

    goal = Goal((peer,), at_least=3)
    return Case(name, f"{shape} exact", Metric.KEYS, contenders, (goal,), "bfloat16")
