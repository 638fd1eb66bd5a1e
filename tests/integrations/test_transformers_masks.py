"""The intervals that masks come down to, checked against transformers' own boolean masks."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", minversion="5")
masking = pytest.importorskip("transformers.masking_utils")

from warploom.integrations.transformers_masks import MaskPlan, plan_mask  # noqa: E402

CAUSAL = masking.causal_mask_function
FULL = masking.bidirectional_mask_function


def visible(plan: MaskPlan) -> torch.Tensor:
    """The boolean matrix [b, sq, sk] that a plan stands for."""
    b, sq, sk = plan.shape_bqk
    seen = torch.zeros(b, sq, sk, dtype=torch.bool)
    for s in plan.segments:
        for i in range(s.q1 - s.q0):
            for j in plan.band.keys(i, s.q1 - s.q0, s.k1 - s.k0):
                seen[s.b0 : s.b1, s.q0 + i, s.k0 + j] = True
    return seen


def expected(mask_function, padding, b, sq, sk, q_offset=0, kv_offset=0) -> torch.Tensor:
    """The same from transformers' function, evaluated at every pair."""
    rows = torch.arange(b)[:, None, None, None]
    qs = (torch.arange(sq) + q_offset)[None, None, :, None]
    ks = (torch.arange(sk) + kv_offset)[None, None, None, :]
    seen = mask_function(rows, torch.zeros(1, 1, 1, 1, dtype=torch.long), qs, ks)
    seen = seen.expand(b, 1, sq, sk)[:, 0].clone()
    if padding is not None:
        kept = torch.zeros(b, sk + kv_offset, dtype=torch.bool)
        width = min(kept.shape[1], padding.shape[1])
        kept[:, :width] = padding[:, :width]
        seen &= kept[:, None, kv_offset:]
    return seen


def real_queries(padding, b, sq, q_offset) -> torch.Tensor:
    """Queries that are no padding, [b, sq]; what the others see does not matter."""
    if padding is None:
        return torch.ones(b, sq, dtype=torch.bool)
    return padding[:, q_offset : q_offset + sq]


def rows_of(*words: str) -> torch.Tensor:
    return torch.tensor([[letter == "x" for letter in word] for word in words])


LEFT = rows_of("..xxxx", "xxxxxx", ".....x", "xxxxxx")
RIGHT = rows_of("xxxx..", "xxxxxx", "x.....", "......")


@pytest.mark.parametrize("padding", [None, LEFT, RIGHT], ids=["none", "left", "right"])
@pytest.mark.parametrize(
    "function",
    [CAUSAL, FULL, masking.sliding_window_causal_mask_function(3)],
    ids=["causal", "full", "window"],
)
def test_prefill_masks_mean_the_same(function, padding):
    plan = plan_mask(4, 6, function, q_length=6, attention_mask=padding)
    rows = real_queries(padding, 4, 6, 0)
    assert torch.equal(visible(plan)[rows], expected(function, padding, 4, 6, 6)[rows])


@pytest.mark.parametrize("padding", [None, LEFT], ids=["none", "left"])
@pytest.mark.parametrize("new", [1, 2])
def test_decode_with_a_growing_cache(padding, new):
    plan = plan_mask(4, 6, CAUSAL, q_length=new, q_offset=6 - new, attention_mask=padding)
    rows = real_queries(padding, 4, new, 6 - new)
    wanted = expected(CAUSAL, padding, 4, new, 6, q_offset=6 - new)
    assert torch.equal(visible(plan)[rows], wanted[rows])


def test_static_cache_shows_only_what_was_written():
    """Capacity 10, 5 positions written, the last 2 of them new; the offset is a tensor."""
    plan = plan_mask(2, 10, CAUSAL, q_length=2, q_offset=torch.tensor(3))
    assert torch.equal(visible(plan), expected(CAUSAL, None, 2, 2, 10, q_offset=3))
    assert plan.keys_from_zero
    assert plan.lengths(torch.device("cpu")).tolist() == [5, 5]


def test_sliding_cache_has_keys_at_an_offset():
    """Window 4 at position 9: the cache holds positions 6 to 8, the new one comes fourth."""
    function = masking.sliding_window_causal_mask_function(4)
    padding = rows_of(".xxxxxxxxx", ".......xxx")
    plan = plan_mask(2, 4, function, q_length=1, q_offset=9, kv_offset=6, attention_mask=padding)
    assert torch.equal(visible(plan), expected(function, padding, 2, 1, 4, 9, 6))


def test_bidirectional_window():
    function = masking.sliding_window_bidirectional_mask_function(2)
    plan = plan_mask(4, 6, function, q_length=6, attention_mask=RIGHT)
    rows = real_queries(RIGHT, 4, 6, 0)
    assert torch.equal(visible(plan)[rows], expected(function, RIGHT, 4, 6, 6)[rows])
    with pytest.raises(NotImplementedError, match="looks ahead"):
        plan_mask(4, 6, function, q_length=2, q_offset=4)


def test_cross_attention_shows_all_real_keys_to_all_queries():
    plan = plan_mask(4, 6, FULL, q_length=3, attention_mask=RIGHT)
    assert torch.equal(visible(plan), expected(FULL, RIGHT, 4, 3, 6))


def test_packed_sequences_stay_apart():
    numbers = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 1, 1]])
    places = torch.tensor([[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1]])
    function = masking.packed_sequence_compatibility_function(
        masking.sliding_window_causal_mask_function(2), places, numbers
    )
    plan = plan_mask(2, 6, function, q_length=6)
    assert torch.equal(visible(plan), expected(function, None, 2, 6, 6))
    assert len(plan.segments) == 5


def test_rows_alike_share_a_segment():
    plan = plan_mask(4, 6, CAUSAL, q_length=6)
    assert plan.segments == ((0, 4, 0, 6, 0, 6),)
    plan = plan_mask(4, 6, CAUSAL, q_length=6, attention_mask=RIGHT)
    assert [(s.b0, s.b1) for s in plan.segments] == [(0, 1), (1, 2), (2, 3)]


def test_older_transformers_gives_cache_positions():
    new = plan_mask(1, 6, CAUSAL, q_length=2, q_offset=4)
    old = plan_mask(1, 6, CAUSAL, cache_position=torch.tensor([4, 5]))
    assert (new.band, new.segments, new.shape_bqk) == (old.band, old.segments, old.shape_bqk)


def test_ragged_rows_are_the_real_tokens():
    ragged = plan_mask(4, 6, CAUSAL, q_length=6, attention_mask=LEFT).ragged(torch.device("cpu"))
    assert ragged.rows_q.tolist() == LEFT.flatten().nonzero().flatten().tolist()
    assert ragged.cu_seqlens_q.tolist() == [0, 4, 10, 11, 17]
    assert ragged.cu_seqlens_k.tolist() == ragged.cu_seqlens_q.tolist()
    assert ragged.max_seqlen == 6


def test_transformers_hands_a_plan_on_unread():
    plan = plan_mask(4, 6, CAUSAL, q_length=6, attention_mask=LEFT)
    assert plan.ndim == 4
    assert plan.contiguous() is plan
    assert plan.to("cpu") is plan


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (masking.chunked_causal_mask_function(2, torch.zeros(1)), "chunked_overlay"),
        (masking.or_masks(CAUSAL, FULL), "or_masks"),
        (lambda b, h, q, k: q >= k, "lambda"),
    ],
)
def test_other_masks_are_refused_by_name(function, named):
    with pytest.raises(NotImplementedError, match=named):
        plan_mask(1, 6, function, q_length=6)


def test_padding_inside_a_row_is_refused():
    with pytest.raises(NotImplementedError, match="row 1 hides tokens between 0 and 6"):
        plan_mask(2, 6, CAUSAL, q_length=6, attention_mask=rows_of("xxxxxx", "xx.xxx"))


def test_padding_mask_must_fit_the_batch():
    with pytest.raises(ValueError, match=r"must be \[3, positions\]"):
        plan_mask(3, 6, CAUSAL, q_length=6, attention_mask=LEFT)
