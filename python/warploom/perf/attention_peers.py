"""Others who compute attention, each as fast as it can be asked to.

torch's SDPA gets its own layout ``[b, h, s, d]``, contiguous. In decode the query heads of a group
are folded into the query axis, which is several times faster on a CPU than ``enable_gqa``; both
run. FlexAttention is compiled, once for each number of threads. A peer's inputs and outputs are
prepared and compared outside of the timing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F

import warploom
from warploom.perf.case import Contender, Context, Role
from warploom.perf.timing import Call
from warploom.testing.cases import AttentionCase, AttentionInputs, DecodeCase, DecodeInputs

T = TypeVar("T")


class Lazy(Generic[T]):
    """Makes its value when first asked: shared by the contenders of one run."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []

    def __call__(self) -> T:
        if not self._made:
            self._made.append(self._make())
        return self._made[0]


def identity(result: torch.Tensor) -> torch.Tensor:
    return result


def heads_first(result: torch.Tensor) -> torch.Tensor:
    """``[b, h, s, d]`` as ``[b, s, h, d]``."""
    return result.transpose(1, 2)


def grad_k(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    return gradients[1]


def grad_k_heads_first(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    return gradients[1].transpose(1, 2)


def _options(case: AttentionCase | DecodeCase) -> dict[str, Any]:
    return {"mask": case.mask, "scale": case.scale, "softcap": case.softcap}


# --- ours


def ours_forward(case: AttentionCase, inputs: AttentionInputs) -> Call:
    q, k, v = inputs.qkv
    options = _options(case)
    if not case.ragged:
        return lambda: warploom.attention(q, k, v, **options)
    longest = max(max(pair) for pair in case.sequences)
    cu_q, cu_k = inputs.cu_seqlens_q, inputs.cu_seqlens_k
    assert cu_q is not None
    assert cu_k is not None
    return lambda: warploom.attention_varlen(q, k, v, cu_q, cu_k, max_seqlen=longest, **options)


def ours_backward(case: AttentionCase, inputs: AttentionInputs) -> Call:
    q, k, v = (t.detach().clone().requires_grad_() for t in inputs.qkv)
    out = warploom.attention(q, k, v, **_options(case))
    return lambda: torch.autograd.grad(out, (q, k, v), inputs.grad_o, retain_graph=True)


def ours_decode(case: DecodeCase, inputs: DecodeInputs) -> Call:
    options = _options(case)
    q, k, v, n, table = inputs.q, inputs.k_cache, inputs.v_cache, inputs.lengths, inputs.page_table
    return lambda: warploom.attention_decode(q, k, v, n, page_table=table, **options)


# --- torch SDPA


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """``[b, s, h, d]`` as contiguous ``[b, h, s, d]``; keeps whether a gradient is wanted."""
    moved = tensor.detach().transpose(1, 2).contiguous()
    return moved.requires_grad_(tensor.requires_grad)


def _sdpa_options(case: AttentionCase, device: torch.device) -> dict[str, Any]:
    if case.softcap is not None:
        raise NotImplementedError("torch SDPA has no soft cap")
    options: dict[str, Any] = {"scale": case.scale, "enable_gqa": case.h != case.kv_heads}
    if case.mask == warploom.mask.causal() and case.sq == case.keys:
        options["is_causal"] = True
    elif not case.mask.is_full:
        options["attn_mask"] = _band(case, device)
    return options


def _band(case: AttentionCase, device: torch.device) -> torch.Tensor:
    distance = torch.arange(case.keys, device=device)[None, :]
    distance = distance - torch.arange(case.sq, device=device)[:, None] - (case.keys - case.sq)
    seen = torch.ones_like(distance, dtype=torch.bool)
    if case.mask.left >= 0:
        seen &= distance >= -case.mask.left
    if case.mask.right >= 0:
        seen &= distance <= case.mask.right
    return seen


def sdpa_forward(case: AttentionCase, inputs: AttentionInputs, backend: Any = None) -> Call:
    q, k, v = (_contiguous(t) for t in inputs.qkv)
    options = _sdpa_options(case, q.device)

    def call() -> torch.Tensor:
        with _only(backend):
            return F.scaled_dot_product_attention(q, k, v, **options)

    if backend is None:
        return lambda: F.scaled_dot_product_attention(q, k, v, **options)
    return call


def _only(backend: Any) -> Any:
    return nullcontext() if backend is None else torch.nn.attention.sdpa_kernel([backend])


def _sdpa_ragged(case: AttentionCase, inputs: AttentionInputs) -> Call:
    """One SDPA call a sequence: torch has no ragged attention on the CPU."""
    sequences = []
    begin_q = begin_k = 0
    for sq, sk in case.sequences:
        part = AttentionCase(
            sq=sq, sk=sk, h=case.h, hk=case.hk, d=case.d, dv=case.dv, mask=case.mask
        )
        tensors = (
            inputs.q[begin_q : begin_q + sq],
            inputs.k[begin_k : begin_k + sk],
            inputs.v[begin_k : begin_k + sk],
        )
        q, k, v = (_contiguous(t[None]) for t in tensors)
        options = _sdpa_options(part, inputs.q.device)
        sequences.append(partial(F.scaled_dot_product_attention, q, k, v, **options))
        begin_q, begin_k = begin_q + sq, begin_k + sk
    return lambda: [attend() for attend in sequences]


def _ragged_output(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([o[0].transpose(0, 1) for o in outputs])


def _sdpa_backward(case: AttentionCase, inputs: AttentionInputs, backend: Any = None) -> Call:
    q, k, v = (_contiguous(t).requires_grad_() for t in inputs.qkv)
    grad_o = _contiguous(inputs.grad_o)
    with _only(backend):
        out = F.scaled_dot_product_attention(q, k, v, **_sdpa_options(case, q.device))
    return lambda: torch.autograd.grad(out, (q, k, v), grad_o, retain_graph=True)


# --- FlexAttention


def _flex(case: AttentionCase, inputs: AttentionInputs) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()  # compiled code has the number of threads in it
    q, k, v = (_contiguous(t) for t in inputs.qkv)
    block_mask = None
    if not case.mask.is_full:
        left, right = case.mask.left, case.mask.right
        shift = case.keys - case.sq

        def seen(b: Any, h: Any, i: Any, j: Any) -> Any:
            distance = j - i - shift
            inside = distance <= right
            return inside if left < 0 else inside & (distance >= -left)

        block_mask = create_block_mask(seen, None, None, case.sq, case.keys, device=q.device)
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    options: dict[str, Any] = {"scale": case.scale, "enable_gqa": case.h != case.kv_heads}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled(q, k, v, block_mask=block_mask, **options)
    return lambda: compiled(q, k, v, block_mask=block_mask, **options)


# --- the peers of each kind of case


def _later(
    make: Callable[[AttentionCase, AttentionInputs, Any], Call],
    case: AttentionCase,
    inputs: Lazy[AttentionInputs],
    backend: Any,
) -> Callable[[], Call]:
    return lambda: make(case, inputs(), backend)


def forward_peers(
    case: AttentionCase, inputs: Lazy[AttentionInputs], context: Context
) -> list[Contender]:
    flops = case.forward_flops
    if case.ragged:
        return [
            Contender(
                "torch SDPA by sequence",
                Role.PEER,
                flops,
                lambda: _sdpa_ragged(case, inputs()),
                output=_ragged_output,
            )
        ]

    def peer(name: str, prepare: Callable[[], Call], optional: bool = True) -> Contender:
        return Contender(name, Role.PEER, flops, prepare, output=heads_first, optional=optional)

    listed = [
        peer(name, _later(sdpa_forward, case, inputs, backend), backend is not None)
        for name, backend in _backends(context)
    ]
    if not context.quick:
        listed.append(peer("FlexAttention", lambda: _flex(case, inputs())))
    return listed


def backward_peers(
    case: AttentionCase, inputs: Lazy[AttentionInputs], context: Context
) -> list[Contender]:
    return [
        Contender(
            name,
            Role.PEER,
            case.backward_flops,
            _later(_sdpa_backward, case, inputs, backend),
            output=grad_k_heads_first,
            optional=backend is not None,
        )
        for name, backend in _backends(context)
    ]


def _backends(context: Context) -> list[tuple[str, Any]]:
    """SDPA's implementations by name; None is torch's own choice."""
    if not context.on_cuda:
        return [("torch SDPA", None)]
    kinds = torch.nn.attention.SDPBackend
    return [
        ("torch SDPA flash", kinds.FLASH_ATTENTION),
        ("torch SDPA cuDNN", kinds.CUDNN_ATTENTION),
    ]


def decode_peers(case: DecodeCase, inputs: Lazy[DecodeInputs]) -> list[Contender]:
    """SDPA three ways. Pages are gathered within the timed call: there is no other way in torch."""
    if case.s != 1 or len(set(case.lengths)) != 1:
        raise NotImplementedError("torch's peers decode one token of sequences of one length")
    group = case.h // case.kv_heads

    def caches() -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values as ``[b, hk, s, d]``."""
        made = inputs()
        if made.page_table is None:
            k, v = _contiguous(made.k_cache), _contiguous(made.v_cache)
            return lambda: (k, v)
        table, keys = made.page_table.long(), case.lengths[0]

        def gather() -> tuple[torch.Tensor, torch.Tensor]:
            k, v = made.k_cache[table].flatten(1, 2), made.v_cache[table].flatten(1, 2)
            return k[:, :keys].transpose(1, 2), v[:, :keys].transpose(1, 2)

        return gather

    def folded() -> Call:
        read = caches()
        q = inputs().q.view(case.b, case.kv_heads, group, case.d)

        def call() -> torch.Tensor:
            k, v = read()
            return F.scaled_dot_product_attention(q, k, v, scale=case.scale)

        return call

    def grouped() -> Call:
        read = caches()
        q = _contiguous(inputs().q)

        def call() -> torch.Tensor:
            k, v = read()
            return F.scaled_dot_product_attention(q, k, v, scale=case.scale, enable_gqa=True)

        return call

    def products() -> Call:
        read = caches()
        q = inputs().q.view(case.b, case.kv_heads, group, case.d)
        scale = case.d**-0.5 if case.scale is None else case.scale

        def call() -> torch.Tensor:
            k, v = read()
            scores = torch.matmul(q, k.transpose(2, 3)).float() * scale
            return torch.matmul(scores.softmax(-1).to(v.dtype), v)

        return call

    def unfold(result: torch.Tensor) -> torch.Tensor:
        return result.reshape(case.b, 1, case.h, -1)

    ways = [
        ("torch SDPA, group folded", folded, unfold),
        ("torch SDPA enable_gqa", grouped, heads_first),
        ("torch matmul", products, unfold),
    ]
    return [
        Contender(name, Role.PEER, case.bytes, prepare, output=output)
        for name, prepare, output in ways
    ]
