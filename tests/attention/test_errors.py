"""Wrong calls: the right exception, naming the argument, what it was and what it must be."""

from __future__ import annotations

import multiprocessing
import re

import pytest
import torch

import warploom as wl
from warploom.mask import causal
from warploom.testing.attention import match_forward
from warploom.testing.cases import AttentionCase, AttentionInputs


def tensor(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


Q, K = tensor(2, 5, 4, 8), tensor(2, 7, 2, 8)
META = K.to("meta")
OFFSETS = torch.tensor([0, 3, 5], dtype=torch.int32)
R = tensor(5, 2, 8)
CACHE, LENGTHS = tensor(2, 16, 2, 8), torch.tensor([3, 4], dtype=torch.int32)
STEP = tensor(2, 1, 4, 8)
PAGES = tensor(6, 4, 2, 8)
TABLE = torch.tensor([[0, 1], [2, 3]], dtype=torch.int32)


def ints(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wl.attention(Q[0], K, K), "q has shape (5, 4, 8): must have 4 axes"),
        (lambda: wl.attention(Q, K[:1], K), "k has shape (1, 7, 2, 8): must be [2, sk, hk, 8]"),
        (lambda: wl.attention(Q, K, K[:, :3]), "v has shape (2, 3, 2, 8): must be [2, 7, 2, dv]"),
        (lambda: wl.attention(Q, tensor(2, 7, 2, 9), K), "must be [2, sk, hk, 8]"),
        (lambda: wl.attention(Q, K.half(), K), "k is torch.float16: must be torch.float32 like q"),
        (lambda: wl.attention(Q, K, K.double()), "v is torch.float64: must be torch.float32"),
        (lambda: wl.attention(Q, META, META), "k is on meta: must be on cpu like q"),
        (lambda: wl.attention(META, K, META), "k is on cpu: must be on meta like q"),
        (
            lambda: wl.attention_varlen(R, R, R, OFFSETS.to("meta"), OFFSETS),
            "cu_seqlens_q is on meta: must be on cpu like q",
        ),
        (
            lambda: wl.attention_decode(STEP, CACHE, CACHE, LENGTHS.to("meta")),
            "lengths is on meta: must be on cpu like q",
        ),
        (
            lambda: wl.merge_states([Q, Q.to("meta")], [tensor(2, 4, 5)] * 2),
            "o[1] is on meta: must be on cpu like o[0]",
        ),
        (
            lambda: wl.page_write(PAGES, PAGES, R.to("meta"), R, torch.arange(5)),
            "k is on meta: must be on cpu like k_pages",
        ),
        (
            lambda: wl.page_write(PAGES, PAGES, R.half(), R, torch.arange(5)),
            "k is torch.float16: must be torch.float32 like k_pages",
        ),
        (
            lambda: wl.page_write(*[PAGES.long()] * 2, R, R, torch.arange(5)),
            "k_pages is torch.int64: must be torch.float32, torch.float16 or torch.bfloat16",
        ),
        (
            lambda: wl.merge_states([Q.long()], [tensor(2, 4, 5)]),
            "o[0] is torch.int64: must be torch.float32, torch.float16 or torch.bfloat16",
        ),
        (
            lambda: wl.attention(Q.double(), K.double(), K.double()),
            "q is torch.float64: must be torch.float32, torch.float16 or torch.bfloat16",
        ),
        (
            lambda: wl.attention(Q, *[tensor(2, 7, 3, 8)] * 2),
            "k has 3 heads and q 4: the key/value heads must divide",
        ),
        (lambda: wl.attention(Q, *[tensor(2, 7, 0, 8)] * 2), "k has 0 heads and q 4"),
        (
            lambda: wl.attention(tensor(2, 5, 8, 4).transpose(2, 3), K, K),
            "q has strides (160, 32, 1, 4): the last axis must be contiguous",
        ),
        (lambda: wl.attention(Q, K, K, mask="causal"), "mask is 'causal': must be wl.mask.full()"),
        (lambda: wl.attention(Q, K, K, scale=float("nan")), "scale is nan: must be finite"),
        (lambda: wl.attention(Q, K, K, softcap=-1.0), "softcap is -1: must be 0 (none) or a"),
        (lambda: wl.mask.window(-2, 0), "left is -2: must be a number of keys, or None"),
        (lambda: wl.mask.window(0, 1.5), "right is 1.5: must be a number of keys, or None"),
        (lambda: wl.mask.window(2**70, 0), f"left is {2**70}: must be less than 2**63"),
        (lambda: wl.mask.window(0, 2**63), f"right is {2**63}: must be less than 2**63"),
        (lambda: wl.attention(Q, K, K, scale="x"), "scale is 'x': must be a number or None"),
        (lambda: wl.attention(Q, K, K, softcap=[1.0]), "softcap is [1.0]: must be a number or"),
        (lambda: wl.attention(Q, K, K, kernel=5), "kernel is 5: must be a kernel's name"),
        (
            lambda: wl.attention_varlen(R, R, R, OFFSETS, OFFSETS, scale="x"),
            "scale is 'x': must be a number or None",
        ),
        (
            lambda: wl.attention_decode(STEP, CACHE, CACHE, LENGTHS, scale="x"),
            "scale is 'x': must be a number or None",
        ),
        (lambda: wl.merge_states([Q], [tensor(2, 4, 5)], kernel=5), "kernel is 5: must be"),
        (
            lambda: wl.page_write(PAGES, PAGES, R, R, torch.arange(5), kernel=5),
            "kernel is 5: must be a kernel's name",
        ),
        (lambda: wl.attention_varlen(R, R, R, OFFSETS.long(), OFFSETS), "must be torch.int32"),
        (
            lambda: wl.attention_varlen(R, R, R, ints(0, 4, 3), OFFSETS),
            "cu_seqlens_q[1] is 4 and cu_seqlens_q[2] is 3: offsets must not decrease",
        ),
        (
            lambda: wl.attention_varlen(R, R, R, OFFSETS, ints(0, 3, 4)),
            "cu_seqlens_k[2] is 4: must be the number of rows, 5",
        ),
        (lambda: wl.attention_varlen(R, R, R, ints(1, 3, 5), OFFSETS), "cu_seqlens_q[0] is 1"),
        (
            lambda: wl.attention_varlen(R, R, R, OFFSETS, OFFSETS, max_seqlen=2),
            "gives sequence 0 a length of 3: max_seqlen is 2",
        ),
        (
            lambda: wl.attention_varlen(R, R, R, OFFSETS, ints(0, 5)),
            "cu_seqlens_k has shape (2,): must be (3,)",
        ),
        (lambda: wl.attention_varlen(R, R, R, ints(), ints()), "cu_seqlens_q is empty"),
        (
            lambda: wl.attention_decode(STEP, CACHE, CACHE, ints(3, 17)),
            "lengths[1] is 17: must be from s = 1 to the cache's capacity, 16",
        ),
        (lambda: wl.attention_decode(STEP, CACHE, CACHE, ints(0, 3)), "lengths[0] is 0"),
        (lambda: wl.attention_decode(STEP, CACHE, CACHE, LENGTHS.long()), "must be torch.int32"),
        (
            lambda: wl.attention_decode(STEP, CACHE[:1], CACHE, LENGTHS),
            "k_cache has shape (1, 16, 2, 8): must be [2, capacity, hk, 8]",
        ),
        (
            lambda: wl.attention_decode(STEP, PAGES, PAGES, ints(9, 3), TABLE),
            "lengths[0] is 9: must be from s = 1 to the cache's capacity, 8",
        ),
        (
            lambda: wl.attention_decode(
                STEP, PAGES, PAGES, ints(5, 3), ints(0, 6, 1, 0).view(2, 2)
            ),
            "page_table[0, 1] is 6: must be from 0 to 5",
        ),
        (
            lambda: wl.attention_decode(STEP, PAGES, PAGES, ints(5, 3), -TABLE),
            "page_table[0, 1] is -1: must be from 0 to 5",
        ),
        (lambda: wl.merge_states([], []), "o has 0 parts and lse 0"),
        (lambda: wl.merge_states([Q], []), "o has 1 parts and lse 0"),
        (lambda: wl.merge_states([Q], [tensor(2, 5, 4)]), "lse[0] has shape (2, 5, 4)"),
        (
            lambda: wl.merge_states([Q], [tensor(2, 4, 5, dtype=torch.float16)]),
            "lse[0] is torch.float16: must be torch.float32",
        ),
        (
            lambda: wl.page_write(PAGES, PAGES, R, R, ints(0, 1, 2, 3, 24, dtype=torch.int64)),
            "slots[4] is 24: must be -1 (skip) or from 0 to 23",
        ),
        (
            lambda: wl.page_write(PAGES, PAGES, R, R, ints(0, -2, 2, 3, 4, dtype=torch.int64)),
            "slots[1] is -2",
        ),
        (lambda: wl.page_write(PAGES, PAGES, R, R, ints(0, 1)), "slots is torch.int32"),
        (lambda: wl.explain("flash", dtype="float32"), "op is 'flash': must be one of attention,"),
        (lambda: wl.explain("attention", dtype="int8"), "dtype is 'int8'"),
        (lambda: wl.explain("attention", dtype="float32", device="tpu"), "device is 'tpu'"),
        (
            lambda: wl.explain("attention", dtype="float32", kernel="nope"),
            "kernel is 'nope': there is no such kernel; see wl.list_kernels()",
        ),
        (lambda: wl.attention(Q, None, K), "k is None: must be a torch.Tensor like q"),
        (lambda: wl.attention(None, K, K), "q is None: must be a torch.Tensor, or an array"),
        (lambda: wl.attention(Q, K, [1.0]), "v is a builtins.list: must be a torch.Tensor like q"),
        (
            lambda: wl.attention(torch.nn.Parameter(Q), K, K.numpy()),
            "v is a numpy.ndarray: must be a torch.Tensor like q",
        ),
        (
            lambda: wl.attention_varlen(R, R, R, OFFSETS, None),
            "cu_seqlens_k is None: must be a torch.Tensor like q",
        ),
        (
            lambda: wl.attention_varlen(*[R.numpy()] * 3, OFFSETS.numpy(), [0, 3, 5]),
            "cu_seqlens_k is a builtins.list: must be a numpy.ndarray like q",
        ),
        (
            lambda: wl.attention_decode(STEP, CACHE, CACHE, None),
            "lengths is None: must be a torch.Tensor like q",
        ),
        (
            lambda: wl.attention_decode(STEP, CACHE, CACHE, LENGTHS, [[0, 1]]),
            "page_table is a builtins.list: must be a torch.Tensor like q",
        ),
        (
            lambda: wl.page_write(None, PAGES, R, R, torch.arange(5)),
            "k_pages is None: must be a torch.Tensor, or an array",
        ),
        (
            lambda: wl.page_write(PAGES, PAGES, None, R, torch.arange(5)),
            "k is None: must be a torch.Tensor like k_pages",
        ),
        (
            lambda: wl.merge_states([Q, None], [tensor(2, 4, 5)] * 2),
            "o[1] is None: must be a torch.Tensor like o[0]",
        ),
        (lambda: wl.attention(Q.numpy(), K, K), "k is a torch.Tensor: must be a numpy.ndarray"),
        (lambda: wl.attention([1.0], [1.0], [1.0]), "q is a builtins.list: must be a torch.Tensor"),
    ],
)
def test_value_errors(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_nothing_is_written_when_a_slot_is_wrong():
    pages = tensor(2, 4, 2, 8)
    rows = torch.ones(2, 2, 8)
    with pytest.raises(ValueError, match="slots"):
        wl.page_write(pages, pages, rows, rows, torch.tensor([0, 99]))
    assert not pages.any()


def test_nothing_fits_says_what_was_asked_and_every_refusal():
    wide = tensor(1, 2, 1, 300)
    with pytest.raises(NotImplementedError) as raised:
        wl.attention(wide, wide, wide)
    text = str(raised.value)
    assert "attention prefill of float32 on cpu, d 300" in text
    for kernel in wl.list_kernels():
        assert (kernel.name in text) == (kernel.op == "prefill")


def test_forced_kernels_that_cannot_run():
    with pytest.raises(NotImplementedError, match="no kernel named attention_magic"):
        wl.attention(Q, K, K, kernel="attention_magic")
    other = next(k.name for k in wl.list_kernels() if k.op == "decode")
    with pytest.raises(NotImplementedError, match="is a kernel of another op"):
        wl.attention(Q, K, K, kernel=other)
    other = next(k.name for k in wl.list_kernels() if k.op == "prefill" and k.dtype == "float16")
    with pytest.raises(NotImplementedError, match="it is for float16"):
        wl.attention(Q, K, K, kernel=other)


def test_unchecked_metadata_is_still_checked():
    with pytest.raises(ValueError, match=r"must be torch\.int32"):
        wl.attention_decode(STEP, CACHE, CACHE, LENGTHS.long(), check=False)


FAR = 2**31 + 24


def far_apart(*tensors):
    """Views of equal values whose two batches lie more than 2^31 elements apart, in one block of
    memory of which nothing in between is touched."""
    width = sum(t[0].numel() for t in tensors)
    block = torch.empty(FAR + width, dtype=tensors[0].dtype)
    views, at = [], 0
    for t in tensors:
        view = block[at:].as_strided(t.shape, (FAR, *t.contiguous().stride()[1:]))
        view.copy_(t)
        views.append(view)
        at += t[0].numel()
    return views


def test_more_than_2_31_elements_between_rows():
    near = [torch.randn(2, 4, 1, 8).half() for _ in range(3)]
    far = far_apart(*near)
    o, lse = wl.attention(*far, mask=causal(), return_lse=True)
    for a, b in zip((o, lse), wl.attention(*near, mask=causal(), return_lse=True), strict=True):
        assert torch.equal(a, b)
    table = torch.tensor([[0], [1]], dtype=torch.int32)
    lengths = torch.tensor([4, 3], dtype=torch.int32)
    step = near[0][:, :1]
    found = wl.attention_decode(step, far[1], far[2], lengths, table)
    assert torch.equal(found, wl.attention_decode(step, near[1], near[2], lengths, table))


def test_more_than_2_31_elements_between_rows_of_gradients_inputs():
    q, k, v, o, grad_o = (torch.randn(2, 4, 1, 8).half() for _ in range(5))
    lse = torch.randn(2, 1, 4)
    expected = torch.ops.warploom.attention_backward(grad_o, lse, q, k, v, o, lse, -1, 0)
    q, k, v, o, grad_o = far_apart(q, k, v, o, grad_o)
    found = torch.ops.warploom.attention_backward(grad_o, lse, q, k, v, o, lse, -1, 0)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_pages_more_than_2_31_elements_apart_are_written():
    k, v = torch.randn(4, 1, 8).half(), torch.randn(4, 1, 8).half()
    pages = far_apart(*[torch.zeros(2, 4, 1, 8, dtype=torch.float16)] * 2)
    wl.page_write(*pages, k, v, torch.tensor([7, 0, -1, 5]))
    for page, rows in zip(pages, (k, v), strict=True):
        expected = torch.zeros(8, 1, 8, dtype=torch.float16)
        expected[[7, 0, 5]] = rows[[0, 1, 3]]
        assert torch.equal(page.reshape(8, 1, 8), expected)


def test_slots_beyond_2_31_positions_are_written():
    """2^31 + 16 positions, one element apart: rows overlap, and a single one is written."""
    pool = torch.empty(2**31 + 64, dtype=torch.float16)
    pages = pool.as_strided((2**27 + 1, 16, 1, 8), (16, 1, 8, 1))
    row = torch.randn(1, 1, 8).half()
    last = 2**31 + 15
    wl.page_write(pages, pages, row, row, torch.tensor([last]))
    assert torch.equal(pool[last : last + 8], row.flatten())
    with pytest.raises(ValueError, match=f"must be -1 \\(skip\\) or from 0 to {last}"):
        wl.page_write(pages, pages, row, row, torch.tensor([last + 1]))


def test_more_than_2_31_elements_in_a_window():
    """An expanded sequence of 2^28 keys x 16: only the window's keys are read."""
    keys = torch.randn(1, 1, 1, 16).expand(1, 2**28, 1, 16)
    assert keys.numel() > 2**31
    q = torch.randn(1, 3, 1, 16)
    o, lse = wl.attention(q, keys, keys, mask=wl.mask.window(4, 0), return_lse=True)
    near = keys[:, :7]  # five keys alike, as every query sees
    case = AttentionCase(sq=3, sk=7, d=16, mask=wl.mask.window(4, 0))
    match_forward(case, (o, lse), AttentionInputs(q, near, near, grad_o=q))


def _in_child(threads, answers):
    torch.set_num_threads(threads)
    try:
        answers.put(wl.attention(Q, K, K).shape)
    except wl.DeviceError as error:
        answers.put(str(error))


def test_forked_children_are_told():
    wl.attention(Q, K, K)
    context = multiprocessing.get_context("fork")
    for threads, expected in ((2, str), (1, torch.Size)):
        answers = context.Queue()
        child = context.Process(target=_in_child, args=(threads, answers))
        child.start()
        answer = answers.get(timeout=60)
        child.join(60)
        assert isinstance(answer, expected)
        assert threads == 1 or "forked" in answer


def test_check_has_nothing_to_report_on_the_cpu():
    wl.attention(Q, K, K)
    wl.check()
