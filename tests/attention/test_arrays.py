"""Arrays of other libraries, through DLPack."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import warploom as wl
from warploom.testing.attention import match_forward
from warploom.testing.cases import AttentionCase


def arrays(dtype=np.float32):
    generator = np.random.default_rng(0)
    return [generator.standard_normal((2, 5, 4, 8)).astype(dtype) for _ in range(3)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numpy_in_numpy_out(dtype):
    q, k, v = arrays(dtype)
    o, lse = wl.attention(q, k, v, mask=wl.mask.causal(), return_lse=True)
    assert type(o) is type(lse) is np.ndarray
    assert o.dtype == dtype
    expected = wl.attention(*map(torch.from_numpy, (q, k, v)), mask=wl.mask.causal())
    np.testing.assert_array_equal(o, expected.numpy())


def test_every_op_takes_arrays():
    case = AttentionCase(b=2, sq=5, h=4, d=8)
    q, k, v = (t.numpy() for t in case.make().qkv)
    parts = [wl.attention(q, k[:, :2], v[:, :2], return_lse=True),
             wl.attention(q, k[:, 2:], v[:, 2:], return_lse=True)]  # fmt: skip
    merged, lse = wl.merge_states(*map(list, zip(*parts, strict=True)))
    match_forward(case, (torch.from_numpy(merged), torch.from_numpy(lse)))
    offsets = np.array([0, 2, 5], dtype=np.int32)
    assert wl.attention_varlen(q[0], k[0], v[0], offsets, offsets).shape == (5, 4, 8)
    lengths = np.array([3, 4], dtype=np.int32)
    assert type(wl.attention_decode(q[:, :1], k, v, lengths)) is np.ndarray


def test_pages_are_written_in_place_without_a_copy():
    pages = np.zeros((2, 4, 4, 8), dtype=np.float32)
    k = arrays()[0][0]
    slots = np.arange(5)
    wl.page_write(pages, pages.copy(), k, k, slots)
    np.testing.assert_array_equal(pages.reshape(8, 4, 8)[:5], k)


def test_read_only_arrays_are_read_and_never_written():
    q, k, v = arrays()
    expected = wl.attention(q, k, v)
    k.flags.writeable = False
    np.testing.assert_array_equal(wl.attention(q, k, v), expected)
    pages = np.zeros((2, 4, 4, 8), dtype=np.float32)
    pages.flags.writeable = False
    with pytest.raises(ValueError, match="k_pages is read-only"):
        wl.page_write(pages, pages, k[0], k[0], np.arange(5))
    assert not pages.any()


class Immutable:
    """An array like JAX's: no flags, no word in its DLPack export, and no assignment."""

    def __init__(self, array, writable=False):
        self.array = array
        self.writable = writable
        self.dtype = array.dtype

    def __dlpack__(self, **options):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array_namespace__(self):
        return np

    def __getitem__(self, key):
        return self.array[key]

    def __setitem__(self, key, value):
        if not self.writable:
            raise TypeError("this array is immutable")
        self.array[key] = value


def test_arrays_that_cannot_be_assigned_to_are_read_and_never_written():
    q, k, v = map(Immutable, arrays())
    np.testing.assert_array_equal(wl.attention(q, k, v), wl.attention(q.array, k.array, v.array))
    pages = Immutable(np.zeros((2, 4, 4, 8), dtype=np.float32))
    rows, slots = Immutable(k.array[0]), Immutable(np.arange(5))
    with pytest.raises(ValueError, match="k_pages is read-only: must be writable"):
        wl.page_write(pages, pages, rows, rows, slots)
    writable = Immutable(np.zeros((2, 4, 4, 8), dtype=np.float32), writable=True)
    with pytest.raises(ValueError, match="v_pages is read-only: must be writable"):
        wl.page_write(writable, pages, rows, rows, slots)
    assert not pages.array.any()
    assert not writable.array.any()


def test_pages_without_axes_are_refused_for_their_rank():
    scalar, rows = np.array(0.0, dtype=np.float32), arrays()[0][0]
    with pytest.raises(ValueError, match="k_pages has shape"):
        wl.page_write(scalar, scalar, rows, rows, np.arange(5))


def test_what_numpy_cannot_exchange_is_named():
    q, k, v = arrays()
    with pytest.raises(ValueError, match=r"q, a numpy\.ndarray of dtype .*, cannot be exchanged"):
        wl.attention(*(t.astype(np.dtype([("bf16", "u2")])) for t in (q, k, v)))


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_negative_strides_are_refused(axis):
    q, k, v = arrays()
    backwards = np.flip(q, axis)
    with pytest.raises(
        ValueError, match=r"q has negative strides \(.*-.*\): must have none; copy it"
    ):
        wl.attention(backwards, k, v)
    with pytest.raises(ValueError, match="v has negative strides"):
        wl.attention(q, k, backwards)
    expected = wl.attention(*map(torch.from_numpy, (backwards.copy(), k, v)))
    np.testing.assert_array_equal(wl.attention(backwards.copy(), k, v), expected.numpy())


def test_importing_and_planning_need_no_torch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import warploom as wl\n"
        "assert wl.explain('attention', dtype='float32', head_dim=64).kernel\n"
        "assert wl.list_kernels() and wl.mask.causal()\n"
        "for name in ('attention', 'reference'):\n"
        "    try: getattr(wl, name)\n"
        "    except ImportError as error: print(name, error)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "attention warploom's ops need torch" in output.stdout
    assert "reference " in output.stdout


def test_the_oracles_are_an_attribute_that_imports_torch_when_asked_for():
    program = (
        "import sys, warploom as wl\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'reference' in dir(wl) or 'reference' in wl.__all__\n"
        "print(wl.reference.attention.__name__, 'torch' in sys.modules)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert output.stdout == "attention True\n"


def test_explanations_print_what_was_asked_and_every_kernel():
    found = wl.explain("attention", dtype=torch.bfloat16, head_dim=96, mask="window")
    assert found.kernel is not None
    assert str(found).startswith("attention bfloat16 on cpu, head_dim 96, window: " + found.kernel)
    assert len(str(found).splitlines()) == 1 + len(found.candidates)
    assert wl.explain("attention", dtype="float32", head_dim=1000).kernel is None
