"""Attention's cases: what the library promises about its speed, and against whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from warploom import mask
from warploom.perf import attention_peers as peers
from warploom.perf import ceilings
from warploom.perf.case import Case, Contender, Context, Goal, Metric, Role
from warploom.perf.timing import Call, Timer
from warploom.testing.cases import AttentionCase, DecodeCase

CEILINGS = True  # of the device, shown first
THREADS: tuple[int, ...] | None = None  # of the CPU, where none are asked for: 1 and all
_SDPA = "torch SDPA"
_FULL = "full d128"
_VARLEN_LENGTHS = (17, 3001, 129, 640, 1531, 72, 2048, 333, 1000, 257)


def cases(device: str) -> list[Case]:
    """The cases of a device, in the order in which they are shown."""
    return _cuda_cases(device) if device.startswith("cuda") else _cpu_cases()


def _cpu_cases() -> list[Case]:
    base = AttentionCase(b=1, h=8, sq=4096, d=128, dtype="bfloat16")
    fp32 = replace(base, dtype="float32")
    wide = replace(base, h=4, sq=8192)
    gemm = "torch GEMM bf16"
    ragged = AttentionCase(h=6, hk=2, d=72, dtype="bfloat16", lengths_q=_VARLEN_LENGTHS)
    cache = DecodeCase(lengths=(8192,) * 4, h=32, hk=8, d=128, dtype="bfloat16")
    listed = [
        forward("forward_bf16", base, goals=(_least(2.1, _SDPA), _least(0.92, gemm))),
        forward(
            "forward_bf16_causal",
            replace(base, mask=mask.causal()),
            reference=base,
            goals=(_least(0.92, _FULL),),
        ),
        forward(
            "forward_bf16_d64", replace(base, d=64), reference=base, goals=(_least(0.85, _FULL),)
        ),
        forward("forward_fp32", fp32, goals=(_least(1.15, _SDPA),)),
        backward("backward_bf16", base, goals=(_least(1.5, _SDPA),)),
        backward("backward_fp32", fp32, goals=(_least(1.15, _SDPA),)),
        forward("varlen_bf16", ragged, reference=base, goals=(_least(0.75, _FULL),)),
        forward("varlen_bf16_causal", replace(ragged, mask=mask.causal()), reference=base),
        forward(
            "window_bf16",
            replace(wide, mask=mask.window(512, 0)),
            reference=wide,
            reference_name="full",
            goals=(Goal(("full",), at_most_slower=1.25),),
        ),
    ]
    for dtype in ("bfloat16", "float32"):
        typed, short = replace(cache, dtype=dtype), ceilings.SHORT[dtype]
        bandwidth = (_least(0.85, "read bandwidth"),)
        listed.append(decode(f"decode_{short}", typed, goals=bandwidth))
        listed.append(decode(f"decode_{short}_paged", replace(typed, page=64), goals=bandwidth))
    return listed + _overhead_cases(judged=True)


def _cuda_cases(device: str) -> list[Case]:
    import torch

    base = AttentionCase(b=4, h=16, sq=4096, d=128, dtype="bfloat16")
    cache = DecodeCase(lengths=(32768,) * 8, h=32, hk=8, d=128, dtype="bfloat16")
    ragged = AttentionCase(h=24, hk=8, d=72, dtype="bfloat16", lengths_q=_VARLEN_LENGTHS * 4)
    goals: tuple[Goal, ...] = ()
    if "H100" in torch.cuda.get_device_name(device):
        goals = (Goal(at_most_seconds=base.forward_flops / 350e12),)
    wide = replace(base, b=1, sq=16384)
    return [
        forward("forward_bf16", base, goals=goals),
        forward("forward_bf16_causal", replace(base, mask=mask.causal()), reference=base),
        forward("forward_bf16_d64", replace(base, d=64), reference=base),
        forward("forward_fp16", replace(base, dtype="float16")),
        forward("forward_fp32", replace(base, dtype="float32", b=1)),
        backward("backward_bf16", base),
        forward("varlen_bf16", ragged, reference=base),
        forward(
            "window_bf16",
            replace(wide, mask=mask.window(512, 0)),
            reference=wide,
            reference_name="full",
            goals=(Goal(("full",), at_most_slower=1.25),),
        ),
        decode("decode_bf16", cache),
        decode("decode_bf16_paged", replace(cache, page=64)),
        *_overhead_cases(judged=False),
    ]


def _least(bound: float, *against: str) -> Goal:
    return Goal(against, at_least=bound)


def tiny(case: Any) -> Any:
    """The same kind of case, small enough to run anywhere at once."""
    if isinstance(case, DecodeCase):
        page = None if case.page is None else 8
        return replace(case, lengths=(40,) * 2, h=4, hk=2, d=32, page=page)
    if case.ragged:
        return replace(case, lengths_q=(5, 33, 17))
    limits = case.mask
    if limits.left > 8:
        limits = mask.window(8, 0)
    return replace(case, b=1, h=2, hk=None, sq=48, d=min(case.d, 32), mask=limits)


def forward(
    name: str,
    case: AttentionCase,
    *,
    goals: tuple[Goal, ...] = (),
    reference: AttentionCase | None = None,
    reference_name: str = _FULL,
) -> Case:
    """Forward attention, dense or ragged; ``reference`` is another job of ours to compare with."""

    def contenders(context: Context) -> Sequence[Contender]:
        shape = tiny(case) if context.quick else case
        inputs = peers.Lazy(lambda: shape.make(context.device))
        listed = [
            Contender(
                "warploom",
                Role.OURS,
                shape.forward_flops,
                lambda: peers.ours_forward(shape, inputs()),
                output=peers.identity,
            ),
            *peers.forward_peers(shape, inputs, context),
        ]
        if reference is not None:
            other = tiny(reference) if context.quick else reference
            listed.append(
                Contender(
                    reference_name,
                    Role.REFERENCE,
                    other.forward_flops,
                    lambda: peers.ours_forward(other, other.make(context.device)),
                )
            )
        return listed + ceilings.compute(case.dtype, context)

    return Case(name, str(case), Metric.FLOPS, contenders, goals, case.dtype)


def backward(name: str, case: AttentionCase, *, goals: tuple[Goal, ...] = ()) -> Case:
    """The gradient alone; its output for comparison is dk."""

    def contenders(context: Context) -> Sequence[Contender]:
        shape = tiny(case) if context.quick else case
        inputs = peers.Lazy(lambda: shape.make(context.device))
        return [
            Contender(
                "warploom",
                Role.OURS,
                shape.backward_flops,
                lambda: peers.ours_backward(shape, inputs()),
                output=peers.grad_k,
            ),
            *peers.backward_peers(shape, inputs, context),
            *ceilings.compute(case.dtype, context),
        ]

    return Case(name, f"backward {case}", Metric.FLOPS, contenders, goals, case.dtype)


def decode(name: str, case: DecodeCase, *, goals: tuple[Goal, ...] = ()) -> Case:
    """One new token a sequence, bound by reading the cache."""

    def contenders(context: Context) -> Sequence[Contender]:
        shape = tiny(case) if context.quick else case
        inputs = peers.Lazy(lambda: shape.make(context.device))
        return [
            Contender(
                "warploom",
                Role.OURS,
                shape.bytes,
                lambda: peers.ours_decode(shape, inputs()),
                output=peers.identity,
            ),
            *peers.decode_peers(shape, inputs),
            ceilings.read_bandwidth(context),
        ]

    return Case(name, str(case), Metric.BYTES, contenders, goals, case.dtype)


def _overhead_cases(*, judged: bool) -> list[Case]:
    """A call's fixed cost; ``judged`` against the goals, which are the CPU's."""
    shape = AttentionCase(b=1, h=1, sq=4, d=16)

    def made(grad: bool) -> Callable[[Context], Sequence[Contender]]:
        def ours(context: Context) -> Call:
            return peers.ours_forward(shape, _with_grad(shape.make(context.device), grad))

        def sdpa(context: Context) -> Call:
            return peers.sdpa_forward(shape, _with_grad(shape.make(context.device), grad))

        def contenders(context: Context) -> Sequence[Contender]:
            return [
                Contender("warploom", Role.OURS, 1, lambda: ours(context), output=peers.identity),
                Contender(_SDPA, Role.PEER, 1, lambda: sdpa(context), output=peers.heads_first),
            ]

        return contenders

    def warm(context: Context) -> Timer:
        return context.timer(flush=False)

    def case(name: str, what: str, grad: bool, seconds: float) -> Case:
        limits = (Goal(at_most_seconds=seconds), Goal((_SDPA,), at_most_slower=2.5))
        goals = limits if judged else ()
        return Case(name, f"{what} {shape}", Metric.CALLS, made(grad), goals, shape.dtype, warm)

    return [
        case("overhead", "eager call", False, 12e-6),
        case("overhead_grad", "eager call that records a gradient,", True, 25e-6),
    ]


def _with_grad(inputs: Any, grad: bool) -> Any:
    for tensor in inputs.qkv:
        tensor.requires_grad_(grad)
    return inputs
