"""The cache in transformers models, on plain pages: who is stored where, and when widths halve."""

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5")

from warploom.methods import pm_kvq  # noqa: E402
from warploom.methods.pm_kvq import cache as cache_module  # noqa: E402
from warploom.methods.pm_kvq.layout import Layout  # noqa: E402

from .kv_models import make, near, token_ids  # noqa: E402
from .plain_store import PlainStore  # noqa: E402

SMALL = {"window": 16, "page_size": 16}
LAYOUT = Layout(2, 2, 16, page_size=16, sink=1, window=16)


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setattr(cache_module, "PagedStore", PlainStore)
    PlainStore.made.clear()


def cache(model, widths=16, **options):
    return pm_kvq.Cache(model.config, widths, **{**SMALL, **options})


def logits(model, ids, pieces, past, mask=None):
    found, begin = [], 0
    with torch.no_grad():
        for size in pieces:
            seen = None if mask is None else mask[:, : begin + size]
            new = ids[:, begin : begin + size]
            found.append(model(new, attention_mask=seen, past_key_values=past).logits)
            begin += size
    return torch.cat(found, 1)


PIECES = pytest.mark.parametrize(
    "pieces", [[90], [1] * 12 + [78], [40, 50], [7, 9, 16, 58], [60] + [1] * 30], ids=len
)


@PIECES
def test_16_bits_are_the_model_itself(pieces):
    """In bfloat16, which pages hold without loss: as transformers' own cache."""
    model, ids = make(dtype=torch.bfloat16), token_ids(2, 90)
    ours = logits(model, ids, pieces, cache(model))
    theirs = logits(model, ids, pieces, transformers.DynamicCache(config=model.config))
    assert (ours - theirs).float().norm() < 0.02 * theirs.float().norm()


@PIECES
def test_padding_takes_no_room(pieces):
    """Rows padded at the left are what they are alone."""
    model, ids = make(), token_ids(3, 90)
    mask = torch.ones_like(ids)
    mask[1, :33] = 0
    mask[2, :5] = 0
    places = (mask.cumsum(1) - 1).clamp_min(0)
    past, found, begin = cache(model, 8), [], 0
    with torch.no_grad():
        for size in pieces:
            part = slice(begin, begin + size)
            found.append(
                model(
                    ids[:, part], attention_mask=mask[:, : begin + size],
                    position_ids=places[:, part], past_key_values=past,
                ).logits
            )  # fmt: skip
            begin += size
    found = torch.cat(found, 1)
    (store,) = PlainStore.made
    assert [n[0] for n in store.lengths.values()] == [90, 57, 85]
    assert past.get_seq_length() == 90
    # alone, in pieces that end where the batch's did
    for row, pad in ((0, 0), (1, 33), (2, 5)):
        ends = [sum(pieces[: n + 1]) - pad for n in range(len(pieces))]
        steps = [b - max(a, 0) for a, b in zip([-pad, *ends[:-1]], ends, strict=True) if b > 0]
        alone = logits(model, ids[row : row + 1, pad:], steps, cache(model, 8))
        assert near(found[row, pad:], alone[0])


def test_widths_hold_past_the_sink_and_the_window():
    model, ids = make(), token_ids(1, 100)
    past = cache(model, [(8, 4), (4, 2)])
    logits(model, ids, [50] + [1] * 50, past)
    (store,) = PlainStore.made
    (layers,) = store.rows.values()
    for pages, pair in zip(layers, [(8, 4), (4, 2)], strict=True):
        widths = [tuple(side.width for side in page.sides) for page in pages]
        assert widths == [(16, 16), pair, pair, pair, pair, (16, 16), (16, 16)]
    assert past.widths() == [(8, 4), (4, 2)]
    assert past.nbytes() == LAYOUT.nbytes(100, past.widths())
    assert past.mean_bits()[0] == pytest.approx(((3 * 16 + 4 * 8) / 7, (3 * 16 + 4 * 4) / 7))


def test_lower_widths_lose_more():
    model, ids = make(), token_ids(1, 200)
    steps = [40] + [16] * 10
    exact = logits(model, ids, steps, transformers.DynamicCache(config=model.config))
    lost = [(logits(model, ids, steps, cache(model, w)) - exact).norm() for w in (16, 8, 4, 2)]
    assert lost == sorted(lost)
    assert lost[3] > 2 * lost[1]


def allocated(budget_of, tokens=192, batch=1):
    model = make()
    profile = pm_kvq.sensitivity(model, [token_ids(128)], layout=LAYOUT)
    budget = batch * budget_of(LAYOUT)
    return model, pm_kvq.allocate(profile, budget, tokens, batch)


def middle(layout):
    return (layout.uniform_nbytes(192, 2) + layout.uniform_nbytes(192, 8)) // 2


@pytest.mark.parametrize("budget", [middle, lambda layout: layout.uniform_nbytes(192, 2)])
@pytest.mark.parametrize("pieces", [[1] * 192, [96] + [1] * 96, [48] * 4, [192]], ids=len)
def test_the_budget_holds_at_every_token_and_widths_end_as_allocated(budget, pieces):
    model, widths = allocated(budget)
    past = pm_kvq.Cache(model.config, widths)
    logits(model, token_ids(1, 192), pieces, past)
    (store,) = PlainStore.made
    assert store.peak <= widths.budget_bytes
    for now, final in zip(past.widths(), widths.layers, strict=True):
        assert all(a >= b for a, b in zip(now, final, strict=True))
    assert past.nbytes() > 0.6 * widths.budget_bytes  # nothing is given up before it must be


def test_nothing_halves_while_all_fits():
    model, widths = allocated(middle)
    past = pm_kvq.Cache(model.config, widths)
    short = next(n for n in range(192, 0, -16) if LAYOUT.uniform_nbytes(n, 16) < middle(LAYOUT))
    logits(model, token_ids(1, short - 16), [1] * (short - 16), past)
    assert past.widths() == [(16, 16)] * 2
    assert PlainStore.made[0].shrunk == []


def test_few_pages_halve_in_a_step():
    model, widths = allocated(lambda layout: layout.uniform_nbytes(192, 2))
    past = pm_kvq.Cache(model.config, widths)
    ids, most = token_ids(1, 192), 0
    with torch.no_grad():
        for n in range(192):
            before = len(PlainStore.made[0].shrunk) if PlainStore.made else 0
            model(ids[:, n : n + 1], past_key_values=past)
            most = max(most, len(PlainStore.made[0].shrunk) - before)
    assert 0 < most <= 4  # calls of at most four pages


def test_more_than_was_allocated_is_refused_before_anything_is_stored():
    model, widths = allocated(middle)
    past = pm_kvq.Cache(model.config, widths)
    logits(model, token_ids(1, 180), [180], past)
    size = past.nbytes()
    with pytest.raises(
        ValueError, match="a sequence of 200 positions: this cache takes at most 192"
    ):
        logits(model, token_ids(1, 20), [20], past)
    assert past.nbytes() == size
    with pytest.raises(ValueError, match="the batch has 2 rows: the widths were allocated for 1"):
        logits(model, token_ids(2, 20), [20], pm_kvq.Cache(model.config, widths))


def test_generation_is_the_same_at_16_bits():
    model = make(dtype=torch.bfloat16)
    ids, mask = token_ids(2, 40), torch.ones(2, 40, dtype=torch.int64)
    mask[1, :9] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    theirs = model.generate(ids, **options)
    ours = model.generate(ids, past_key_values=cache(model), **options)
    assert torch.equal(ours, theirs)


def test_beams_share_pages_and_follow_each_other():
    model = make()
    ids = token_ids(2, 40)
    options = {"max_new_tokens": 20, "num_beams": 3, "do_sample": False}
    theirs = model.generate(ids, **options)
    ours = model.generate(ids, past_key_values=cache(model), **options)
    assert torch.equal(ours, theirs)
    (store,) = PlainStore.made
    alone = 6 * LAYOUT.uniform_nbytes(59, 16)
    assert len(store.rows) == 6
    assert store.nbytes() < alone


def test_rows_are_selected_and_repeated():
    model, ids = make(), token_ids(3, 40)
    past = cache(model, 8)
    logits(model, ids, [40], past)
    past.batch_select_indices(torch.tensor([2, 0]))
    past.batch_repeat_interleave(2)
    found = logits(model, token_ids(1, 1).expand(4, 1), [1], past)
    for row, source in enumerate((2, 2, 0, 0)):
        alone = cache(model, 8)
        logits(model, ids[source : source + 1], [40], alone)
        wanted = logits(model, token_ids(1, 1), [1], alone)[0]
        assert near(found[row], wanted)


def test_a_reset_cache_is_a_new_one():
    model, ids = make(), token_ids(1, 60)
    past = cache(model, 4)
    first = logits(model, ids, [30, 30], past)
    past.reset()
    assert (past.nbytes(), past.get_seq_length()) == (0, 0)
    assert torch.equal(logits(model, ids, [30, 30], past), first)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_other_attention_is_refused_by_name(implementation):
    model = make()
    model.set_attn_implementation(implementation)
    with pytest.raises(NotImplementedError, match="needs attn_implementation='warploom'"):
        logits(model, token_ids(1, 20), [20], cache(model))


def test_what_cannot_be_is_refused_by_name():
    model = make()
    past = cache(model)
    with pytest.raises(NotImplementedError, match="crop: positions cannot be taken back"):
        past.crop(-1)
    with pytest.raises(NotImplementedError, match="offload"):
        past.layers[0].offload()
    with pytest.raises(ValueError, match="widths has 3 entries: must have one a layer, 2"):
        cache(model, [8, 8, 8])
    with pytest.raises(ValueError, match=r"widths\[1\] is 3: must be of 16, 8, 4 and 2"):
        cache(model, [8, 3])
    with pytest.raises(ValueError, match="precision is 'quick'"):
        cache(model, precision="quick")
    with pytest.raises(NotImplementedError, match=r"layer 0 of .* is sliding_attention"):
        pm_kvq.Cache(transformers.Gemma2Config(num_hidden_layers=2), 8)
    _, widths = allocated(middle)
    with pytest.raises(ValueError, match="window is 64: must be 16"):
        pm_kvq.Cache(model.config, widths, window=64)
    with pytest.raises(ValueError, match="max_tokens is 193: must be at most 192"):
        pm_kvq.Cache(model.config, widths, max_tokens=193)
    with pytest.raises(
        ValueError, match=r"widths are for .* \(2, 2, 16\), the model has \(3, 2, 16"
    ):
        pm_kvq.Cache(make(num_hidden_layers=3).config, widths)


def test_padding_that_changes_is_refused():
    model, ids = make(), token_ids(2, 30)
    past = cache(model)
    mask = torch.ones(2, 30, dtype=torch.int64)
    logits(model, ids[:, :20], [20], past, mask)
    mask[1, :4] = 0
    with (
        pytest.raises(ValueError, match=r"row 1 counts 16 positions .* the cache holds 20"),
        torch.no_grad(),
    ):
        model(ids[:, 20:], attention_mask=mask, past_key_values=past)
