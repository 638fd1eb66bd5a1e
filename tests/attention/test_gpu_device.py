"""Every kernel of this machine's GPU on its own tensors: the cases of the CPU and of the emulator,
larger ones, and what only a device has (streams, graphs, several devices).
"""

from __future__ import annotations

import subprocess
import sys

import gpu_checks
import gpu_pages_checks
import pytest
import torch
from attention_cases import (
    DECODE,
    EMPTY,
    EMULATED_DECODE,
    EMULATED_FORWARD,
    FORWARD,
    LARGE_DECODE,
    LARGE_FORWARD,
    in_dtype,
)
from gpu_checks import of_width
from test_attention_pages import CASES as PAGES_CASES

import warploom as wl
from tests.gpu_device import DEVICE, gpu, kernels  # noqa: F401
from warploom.mask import causal, window
from warploom.testing.attention import (
    check_backward,
    check_decode,
    check_forward,
    grad_of_lse,
    run_backward,
    run_decode,
    run_forward,
)
from warploom.testing.cases import AttentionCase, DecodeCase

pytestmark = pytest.mark.gpu


def names(op: str):
    return [pytest.param(kernel, id=kernel.name) for kernel in kernels(op)]


def each(op: str, cases):
    return [
        pytest.param(kernel, case, id=f"{kernel.name}-{case}")
        for kernel in kernels(op)
        for case in in_dtype(cases, kernel.dtype)
        if max(case.d, case.value_dim) <= kernel.max_head_dim
    ]


@pytest.mark.parametrize(("kernel", "case"), each("prefill", FORWARD))
def test_forward(kernel, case):
    check_forward(case, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("backward", FORWARD))
def test_backward(kernel, case):
    check_backward(case, kernel=kernel.name, device=DEVICE)
    check_backward(case, with_lse=True, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("decode", DECODE))
def test_decode(kernel, case):
    check_decode(case, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("prefill", EMULATED_FORWARD))
def test_small_forward(kernel, case):
    check_forward(case, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("backward", EMULATED_FORWARD))
def test_small_backward(kernel, case):
    check_backward(case, with_lse=True, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("decode", EMULATED_DECODE))
def test_small_decode(kernel, case):
    check_decode(case, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("prefill", LARGE_FORWARD))
def test_large_forward(kernel, case):
    check_forward(case, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("backward", LARGE_FORWARD))
def test_large_backward(kernel, case):
    check_backward(case, with_lse=True, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("decode", LARGE_DECODE))
def test_large_decode(kernel, case):
    check_decode(case, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("prefill", EMPTY))
def test_empty_forward(kernel, case):
    check_forward(case, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize(("kernel", "case"), each("backward", EMPTY))
def test_empty_backward(kernel, case):
    check_backward(case, with_lse=True, kernel=kernel.name, device=DEVICE)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_values_that_are_not_finite(kernel):
    gpu_checks.nan_shows_in_its_column(kernel, DEVICE)
    for sign in (1, -1):
        gpu_checks.infinity_keeps_its_sign(kernel, DEVICE, sign)


@pytest.mark.parametrize("kernel", names("backward"))
def test_gradients_ignore_what_is_hidden(kernel):
    gpu_checks.gradients_ignore_what_is_hidden(kernel, DEVICE)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_any_alignment_and_strides(kernel):
    gpu_checks.any_alignment_and_strides(kernel, DEVICE)


@pytest.mark.parametrize("offsets", gpu_checks.BAD_OFFSETS, ids=str)
@pytest.mark.parametrize("kernel", names("prefill"))
def test_bad_offsets_poison_the_output_and_are_named(kernel, offsets):
    gpu_checks.bad_offsets_poison_the_output(kernel, DEVICE, offsets)


@pytest.mark.parametrize("kernel", names("backward"))
def test_bad_offsets_poison_the_gradients(kernel):
    gpu_checks.bad_offsets_poison_the_gradients(kernel, DEVICE)


@pytest.mark.parametrize("kernel", names("decode"))
def test_bad_lengths_and_pages_poison_their_sequence_alone(kernel):
    gpu_checks.bad_lengths_and_pages_poison_their_sequence(kernel, DEVICE)


@pytest.mark.parametrize(
    "kernel", names("prefill") + names("backward") + names("decode") + names("page_write")
)
def test_bad_values_are_refused_before_the_call_where_it_checks(kernel):
    gpu_checks.bad_values_are_refused_before_the_call(kernel, DEVICE)


@pytest.mark.parametrize("kernel", names("decode"))
def test_good_values_pass_the_check(kernel):
    gpu_checks.good_values_pass_the_check(kernel, DEVICE)


@pytest.mark.parametrize("kernel", names("merge"))
def test_merge(kernel):
    gpu_checks.merge(kernel, DEVICE)


@pytest.mark.parametrize("d", [24, 5])
@pytest.mark.parametrize("kernel", names("page_write"))
def test_page_write(kernel, d):
    gpu_checks.page_write(kernel, DEVICE, d)


PAGES = names("pages")


@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        pytest.param(kernel, case, id=f"{kernel.name}-{case}")
        for kernel in kernels("pages")
        for case in (gpu_pages_checks.of(case, kernel) for case in PAGES_CASES)
        if max(case.d, case.value_dim) <= kernel.max_head_dim
    ],
)
def test_pages(kernel, case):
    gpu_pages_checks.check(kernel, DEVICE, case)


@pytest.mark.parametrize("kernel", PAGES)
@pytest.mark.parametrize("width", [16, 8, 4, 2])
def test_small_pages_of_one_width(kernel, width):
    gpu_pages_checks.one_width(kernel, DEVICE, width)


@pytest.mark.parametrize("kernel", PAGES)
def test_pages_do_as_they_should_with_odd_values(kernel):
    gpu_pages_checks.both_precisions_are_one(kernel, DEVICE)
    gpu_pages_checks.hidden_positions_may_hold_anything(kernel, DEVICE)
    for value in (torch.nan, torch.inf):
        gpu_pages_checks.a_query_that_is_not_finite_spoils_its_row_alone(kernel, DEVICE, value)
    gpu_pages_checks.constant_groups(kernel, DEVICE)
    gpu_pages_checks.nothing_to_do(kernel, DEVICE)
    gpu_pages_checks.rows_that_see_nothing(kernel, DEVICE)


@pytest.mark.parametrize("kernel", PAGES)
def test_bad_pages_poison_their_sequence_alone(kernel):
    gpu_pages_checks.bad_values_poison_their_sequence_alone(kernel, DEVICE)


def calls(kernel, device=DEVICE, seed=0):
    """A call of a kernel of the three big loops, and the tensors it reads."""
    if kernel.op == "decode":
        d = kernel.max_head_dim
        case = DecodeCase(lengths=(1700, 33, 1), h=8, hk=2, d=d, page=32, dtype=kernel.dtype)
        x = case.make(device, seed)
        return lambda: run_decode(case, x, kernel.name), [x.q, x.k_cache, x.v_cache]
    case = of_width(kernel, b=2, sq=700, sk=900, h=4, hk=2, mask=causal())
    x = case.make(device, seed)
    if kernel.op == "prefill":
        return lambda: run_forward(case, x, kernel.name), list(x.qkv)
    o, lse = run_forward(case, x)
    grad_lse = grad_of_lse(case, x)
    return (
        lambda: run_backward(case, x, o, lse, grad_lse, kernel.name),
        [*x.qkv, x.grad_o, o, lse, grad_lse],
    )


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


BIG_LOOPS = names("prefill") + names("backward") + names("decode")


@pytest.mark.parametrize("kernel", BIG_LOOPS)
def test_the_same_bits_from_call_to_call(kernel):
    call, _ = calls(kernel)
    first = [t.clone() for t in call()]
    for _ in range(10):
        assert_same(call(), first)


@pytest.mark.parametrize("kernel", BIG_LOOPS)
def test_runs_on_the_current_stream(kernel):
    """Inputs that arrive late on that stream are waited for."""
    call, inputs = calls(kernel)
    expected = call()
    kept = [t.clone() for t in inputs]
    for t in inputs:
        t.fill_(torch.nan)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for t, value in zip(inputs, kept, strict=True):
            t.copy_(value)
        found = call()
    stream.synchronize()
    assert_same(found, expected)


@pytest.mark.parametrize("kernel", BIG_LOOPS)
def test_is_captured_in_a_graph(kernel):
    call, inputs = calls(kernel)
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for seed in (1, 2):
        fresh, values = calls(kernel, seed=seed)
        for t, value in zip(inputs, values, strict=True):
            t.copy_(value)
        graph.replay()
        assert_same(captured, fresh())


FIRST_CALL_IN_A_GRAPH = """
import torch, warploom as wl
q = torch.randn(1, 70, 2, 64, dtype=torch.bfloat16, device="cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    o = wl.attention(q, q, q)
graph.replay()
assert torch.equal(o, wl.attention(q, q, q))
"""


def test_the_first_call_of_a_process_may_be_captured():
    """The layout probe and the making of the error word keep out of the graph."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL_IN_A_GRAPH], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kernel", BIG_LOOPS)
def test_device_of_the_tensors_is_the_one_that_runs(kernel):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    assert torch.cuda.current_device() == 0
    found = calls(kernel, "cuda:1")[0]()
    assert all(t.device == torch.device("cuda:1") for t in found)
    assert torch.cuda.current_device() == 0
    assert_same([t.cpu() for t in found], [t.cpu() for t in calls(kernel)[0]()])


def test_tensors_on_two_devices_are_refused():
    q = torch.zeros(1, 2, 1, 8, device=DEVICE)
    with pytest.raises(ValueError, match="k is on cpu: must be on cuda:0 like q"):
        wl.attention(q, q.cpu(), q)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_compiles_with_gradients(dtype):
    def model(q, k, v):
        o, lse = wl.attention(q, k, v, mask=window(50, 0), return_lse=True)
        return o.float().square().sum() + lse.sum()

    case = AttentionCase(sq=300, h=4, hk=2, d=64, dtype=str(dtype).removeprefix("torch."))
    tensors = [t.requires_grad_() for t in case.make(DEVICE).qkv]
    expected = torch.autograd.grad(model(*tensors), tensors)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for a, b in zip(torch.autograd.grad(compiled(*tensors), tensors), expected, strict=True):
        assert torch.equal(a, b)


def test_the_best_kernel_is_taken_without_a_name():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        found = wl.explain("attention", dtype=dtype, head_dim=64, mask="causal", device=DEVICE)
        fitting = [k for k in kernels("prefill") if f"torch.{k.dtype}" == str(dtype)]
        assert found.kernel == max(fitting, key=lambda k: k.score).name
