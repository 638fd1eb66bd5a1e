"""The ops as torch sees them: registration, gradients, compilation, autocast, what is refused."""

from __future__ import annotations

import pytest
import torch

import warploom as wl
from warploom import reference
from warploom.mask import causal, window
from warploom.testing.cases import AttentionCase, DecodeCase
from warploom.testing.compare import assert_matches

ops = torch.ops.warploom


def qkv(b=2, sq=5, sk=7, h=4, hk=2, d=8, dv=8, dtype=torch.float32, grad=False):
    x = AttentionCase(b=b, sq=sq, sk=sk, h=h, hk=hk, d=d, dv=dv).make()
    return [t.to(dtype).requires_grad_(grad) for t in x.qkv]


def ragged(grad=False):
    x = AttentionCase(lengths_q=(3, 0, 5), lengths_k=(4, 2, 5), h=4, hk=2, d=8).make()
    return [t.requires_grad_(grad) for t in x.qkv], x.cu_seqlens_q, x.cu_seqlens_k


def decode_inputs(page=4):
    x = DecodeCase(lengths=(5, 9), s=2, h=4, hk=2, d=8, page=page).make()
    return [t for t in (x.q, x.k_cache, x.v_cache, x.lengths, x.page_table) if t is not None]


def merge_inputs(grad=False):
    parts = [wl.attention(*qkv(sk=n), return_lse=True) for n in (3, 4)]
    o, lse = zip(*parts, strict=True)
    return [t.requires_grad_(grad) for t in o], [t.requires_grad_(grad) for t in lse]


def page_inputs():
    pages = torch.zeros(3, 4, 2, 8)
    k = torch.randn(5, 2, 8)
    return pages, pages.clone(), k, k + 1, torch.tensor([0, 11, -1, 5, 4])


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("attention", lambda: qkv()),
        ("attention", lambda: [*qkv(grad=True), 3, 0]),
        ("attention", lambda: [*qkv(dtype=torch.bfloat16, grad=True), -1, 0, 0.5, 2.0]),
        (
            "attention",
            lambda: [*ragged(grad=True)[0], -1, 0, None, None, None, None, *ragged()[1:], 5],
        ),
        ("attention_decode", lambda: decode_inputs(page=4)),
        ("attention_decode", lambda: decode_inputs(page=None)),
        ("merge_states", lambda: merge_inputs()),
        ("merge_states", lambda: merge_inputs(grad=True)),
        ("page_write", lambda: page_inputs()),
    ],
)
def test_opcheck(op, arguments):
    torch.library.opcheck(getattr(ops, op), tuple(arguments()))


def test_opcheck_of_backward():
    q, k, v = qkv()
    o, lse = wl.attention(q, k, v, return_lse=True)
    for grad_lse in (None, lse):
        torch.library.opcheck(ops.attention_backward, (o, grad_lse, q, k, v, o, lse))


def gradients(function, tensors):
    o, lse = function(*tensors)
    weights = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape)
    loss = (o * weights).sum() + (lse * lse.detach().cos()).sum()
    return torch.autograd.grad(loss, tensors)


def in_double(tensors):
    return [t.detach().double().requires_grad_() for t in tensors]


def assert_gradients(found, take, tensors):
    """By the rule, with ``take(tensors)`` in float64 for the oracle and in float32 beside it."""
    for n, (a, b, c) in enumerate(zip(found, take(in_double(tensors)), take(tensors), strict=True)):
        assert_matches(f"gradient {n}", a, b, c)


@pytest.mark.parametrize("mask", [None, causal(), window(2, 1)])
def test_gradients_through_o_and_lse(mask):
    tensors = qkv(sq=7, grad=True)
    found = gradients(lambda q, k, v: wl.attention(q, k, v, mask, return_lse=True), tensors)

    def oracle(q, k, v):
        return reference.attention(q, k, v, mask)

    assert_gradients(found, lambda t: gradients(oracle, t), tensors)


def test_gradients_of_ragged_attention():
    tensors, *offsets = ragged(grad=True)

    def ours(q, k, v):
        return wl.attention_varlen(q, k, v, *offsets, mask=window(2, 0), return_lse=True)

    def oracle(q, k, v):
        o, lse = reference.attention_varlen(q, k, v, *offsets, mask=window(2, 0))
        return o, lse.masked_fill(lse == -torch.inf, 0)

    assert ours(*tensors)[1].isfinite().all()
    assert_gradients(gradients(ours, tensors), lambda t: gradients(oracle, t), tensors)


@pytest.mark.parametrize(
    "pick", [lambda o, lse: o.sum(), lambda o, lse: lse.sum()], ids=["o", "lse"]
)
def test_gradient_of_one_result_alone_and_of_an_expanded_sum(pick):
    tensors = qkv(grad=True)
    found = torch.autograd.grad(
        pick(*wl.attention(*tensors, return_lse=True)), tensors, allow_unused=False
    )

    def oracle(tensors):
        result = pick(*reference.attention(*tensors))
        return torch.autograd.grad(result, tensors, materialize_grads=True)

    assert_gradients(found, oracle, tensors)


def test_gradients_of_merging_are_those_of_attention_over_all_keys():
    tensors = qkv(sq=6, sk=9, grad=True)

    def in_parts(attend, merge):
        def whole(q, k, v):
            parts = [attend(q, k[:, i : i + 3], v[:, i : i + 3]) for i in (0, 3, 6)]
            return merge(*map(list, zip(*parts, strict=True)))

        return whole

    ours = in_parts(lambda *t: wl.attention(*t, return_lse=True), wl.merge_states)
    plain = in_parts(reference.attention, reference.merge_states)
    exact = gradients(reference.attention, in_double(tensors))
    for a, b, c in zip(gradients(ours, tensors), exact, gradients(plain, tensors), strict=True):
        assert_matches("gradient", a, b, c)


def test_gradients_of_merging_with_absent_parts():
    o, lse = merge_inputs()
    lse[1][0] = -torch.inf
    o[1][0] = torch.nan
    tensors = [t.detach().requires_grad_() for t in (*o, *lse)]

    def loss(merge, tensors, scale=1.0):
        merged, total = merge(list(tensors[:2]), list(tensors[2:]))
        return (merged * merged.detach().sin()).sum() + total.sum()

    found = torch.autograd.grad(loss(wl.merge_states, tensors), tensors)
    assert all(grad.isfinite().all() for grad in found)
    assert not found[1][0].any()
    assert not found[3][0].any()
    ones = torch.ones_like(found[2][0])
    assert_matches("of the only lse", found[2][0], ones.double(), ones)


def test_autocast_lowers_inputs_and_returns_gradients_in_theirs():
    tensors = qkv(grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o = wl.attention(*tensors)
        merged, lse = wl.merge_states(*merge_inputs())
        decoded = wl.attention_decode(*decode_inputs())
    assert o.dtype == merged.dtype == torch.bfloat16
    assert decoded.dtype == torch.float32  # a cache stays as it is
    assert lse.dtype == torch.float32
    expected = wl.attention(*(t.detach().bfloat16() for t in tensors))
    assert torch.equal(o.detach(), expected)
    for grad in torch.autograd.grad(o.float().sum(), tensors):
        assert grad.dtype == torch.float32


def under_forward_ad(function, x):
    with torch.autograd.forward_ad.dual_level():
        return function(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


def calls_of_a_tensor():
    """Each op as a function of one of its tensors, and that tensor."""
    q, k, v = qkv()
    (rows, *others), *offsets = ragged()
    decoded, *cache = decode_inputs()
    parts, lse = merge_inputs()
    k_pages, v_pages, k_rows, v_rows, slots = page_inputs()

    def write(k_rows):
        wl.page_write(k_pages, v_pages, k_rows, v_rows, slots)
        return k_rows

    return {
        "attention": (lambda q: wl.attention(q, k, v), q),
        "attention_varlen": (lambda q: wl.attention_varlen(q, *others, *offsets), rows),
        "attention_decode": (lambda q: wl.attention_decode(q, *cache), decoded),
        "merge_states": (lambda o: wl.merge_states([o, parts[1]], lse)[0], parts[0]),
        "page_write": (write, k_rows),
    }


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: torch.func.vmap(f)(torch.stack([x, x])),
        lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
        lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
        under_forward_ad,
    ],
    ids=["vmap", "grad", "jvp", "forward_ad"],
)
@pytest.mark.parametrize("op", calls_of_a_tensor())
def test_transforms_are_refused(transform, op):
    function, tensor = calls_of_a_tensor()[op]
    name = op.removesuffix("_varlen")  # dense and ragged are one op
    with pytest.raises(NotImplementedError, match=rf"^{name} (does not support|has no forward)"):
        transform(function, tensor)


def test_second_derivative_is_refused_when_it_is_asked_for():
    tensors = qkv(grad=True)
    (first, *_) = torch.autograd.grad(
        wl.attention(*tensors).square().sum(), tensors, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="differentiated once"):
        first.sum().backward()


def test_what_has_no_gradient_refuses_inputs_that_require_it():
    q, k_cache, v_cache, lengths, table = decode_inputs()
    with pytest.raises(ValueError, match="v_cache requires grad: attention_decode"):
        wl.attention_decode(q, k_cache, v_cache.requires_grad_(), lengths, table)
    with torch.no_grad():
        wl.attention_decode(q, k_cache, v_cache, lengths, table)
    k_pages, v_pages, k, v, slots = page_inputs()
    with pytest.raises(ValueError, match="k requires grad: page_write"):
        wl.page_write(k_pages, v_pages, k.requires_grad_(), v, slots)
    assert not k_pages.any()


def test_writing_pages_is_seen_by_autograd():
    k_pages, v_pages, k, v, slots = page_inputs()
    scale = torch.ones(1, requires_grad=True)
    loss = (scale * k_pages).sum()
    wl.page_write(k_pages, v_pages, k, v, slots)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_shortcut_and_dispatcher_agree():
    q, k, v = qkv()
    for tensors in ((q, k, v), [t.requires_grad_() for t in (q, k, v)]):
        for a, b in zip(wl.attention(*tensors, return_lse=True), ops.attention(*tensors),
                        strict=True):  # fmt: skip
            assert torch.equal(a, b)
            assert a.requires_grad == b.requires_grad


def test_profiler_and_modes_see_every_call():
    q, k, v = qkv()
    with torch.profiler.profile() as profile:
        wl.attention(q, k, v)
    assert any(event.key == "warploom::attention" for event in profile.key_averages())
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) for t in (q, k, v)]
        assert isinstance(wl.attention(*fakes), torch._subclasses.FakeTensor)
    assert wl.attention(*(t.to("meta") for t in (q, k, v))).is_meta
    inverted = torch._neg_view(q)
    assert torch.equal(wl.attention(inverted, k, v), wl.attention(-q, k, v))
