"""The cache on real pages against the same on plain ones: logits, widths and bytes."""

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5")

from warploom.methods import pm_kvq  # noqa: E402
from warploom.methods.pm_kvq import cache as cache_module  # noqa: E402
from warploom.methods.pm_kvq.layout import Layout  # noqa: E402
from warploom.methods.pm_kvq.store import PagedStore  # noqa: E402

from .kv_models import make, near, token_ids  # noqa: E402
from .plain_store import PlainStore  # noqa: E402

SMALL = {"window": 16, "page_size": 16}


def both(monkeypatch, run):
    """What ``run()`` gives on plain pages, and on real ones."""
    results = []
    for store in (PlainStore, PagedStore):
        monkeypatch.setattr(cache_module, "PagedStore", store)
        results.append(run())
    return results


def same(plain, paged):
    """Attention in float64 there, in the kernel's precision here."""
    assert near(paged, plain)


def fed(model, past, ids, pieces, mask=None):
    found, begin = [], 0
    with torch.no_grad():
        for size in pieces:
            seen = None if mask is None else mask[:, : begin + size]
            new = ids[:, begin : begin + size]
            found.append(model(new, attention_mask=seen, past_key_values=past).logits)
            begin += size
    return torch.cat(found, 1)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("widths", [16, 8, 4, 2, [(8, 2), (2, 4)]], ids=str)
def test_widths(monkeypatch, widths, per_channel):
    model, ids = make(), token_ids(2, 130)
    options = {**SMALL, "keys_per_channel": per_channel}

    def run():
        past = pm_kvq.Cache(model.config, widths, **options)
        return fed(model, past, ids, [50] + [1] * 30 + [50], None), past.nbytes(), past.mean_bits()

    (plain, *facts), (paged, *their_facts) = both(monkeypatch, run)
    same(plain, paged)
    assert their_facts == facts


def test_padding_and_pieces(monkeypatch):
    model, ids = make(), token_ids(3, 100)
    mask = torch.ones_like(ids)
    mask[0, :37] = 0
    mask[1, :3] = 0

    def run():
        past = pm_kvq.Cache(model.config, 4, **SMALL)
        return fed(model, past, ids, [40, 30, 1, 1, 28], mask) * mask[..., None], past.nbytes()

    (plain, size), (paged, their_size) = both(monkeypatch, run)
    same(plain, paged)
    assert their_size == size


@pytest.mark.parametrize("pieces", [[1] * 192, [96] + [1] * 96, [192]], ids=len)
def test_budgets(monkeypatch, pieces):
    model = make()
    layout = Layout.of(model.config, sink=1, **SMALL)
    budget = (layout.uniform_nbytes(192, 2) + layout.uniform_nbytes(192, 8)) // 2
    profile = pm_kvq.sensitivity(model, [token_ids(128)], layout=layout)
    widths = pm_kvq.allocate(profile, budget, 192)

    def run():
        past = pm_kvq.Cache(model.config, widths)
        logits = fed(model, past, token_ids(1, 192), pieces)
        assert past.nbytes() <= budget
        return logits, past.widths()

    (plain, wide), (paged, their_wide) = both(monkeypatch, run)
    same(plain, paged)
    assert their_wide == wide


def test_beams_under_a_budget(monkeypatch):
    model = make()
    layout = Layout.of(model.config, sink=1, **SMALL)
    budget = 4 * layout.uniform_nbytes(80, 2)
    profile = pm_kvq.sensitivity(model, [token_ids(128)], layout=layout)
    widths = pm_kvq.allocate(profile, budget, 80, batch=4)
    ids = token_ids(2, 40)

    def run():
        past = pm_kvq.Cache(model.config, widths)
        return model.generate(
            ids, past_key_values=past, max_new_tokens=40, num_beams=2, do_sample=False
        )

    plain, paged = both(monkeypatch, run)
    assert torch.equal(plain, paged)


def test_beams_that_share_all_pages_halve_a_few_at_a_time(monkeypatch):
    """Every step reorders; halvings go on as if it did not."""
    model = make()
    layout = Layout.of(model.config, sink=1, **SMALL)
    budget = layout.uniform_nbytes(256, 2) * 3
    profile = pm_kvq.sensitivity(model, [token_ids(128)], layout=layout)
    widths = pm_kvq.allocate(profile, budget, 256, batch=2)
    ids = token_ids(2, 256)

    def run():
        past, found, bits = pm_kvq.Cache(model.config, widths), [], []
        for begin in range(0, 256, 4):
            found.append(fed(model, past, ids[:, begin : begin + 4], [4]))
            past.reorder_cache(torch.tensor([0, 1]))
            bits.append(past.mean_bits())
        return torch.cat(found, 1), bits

    (plain, their_bits), (paged, bits) = both(monkeypatch, run)
    assert bits == their_bits
    assert len({str(each) for each in bits}) > 4, "nothing halved"
    same(plain, paged)


def test_what_was_stored_is_not_stored_again(monkeypatch):
    """An append that fails for another reason than room."""
    model = make()
    layout = Layout.of(model.config, sink=1, **SMALL)
    profile = pm_kvq.sensitivity(model, [token_ids(128)], layout=layout)
    widths = pm_kvq.allocate(profile, layout.uniform_nbytes(192, 4), 192)
    past = pm_kvq.Cache(model.config, widths)
    fed(model, past, token_ids(1, 60), [60])
    store, append = past._store, past._store.append

    def fails(*arguments):
        append(*arguments)
        raise MemoryError("host memory ran out")

    monkeypatch.setattr(store, "append", fails)
    with pytest.raises(MemoryError, match="host memory"):
        fed(model, past, token_ids(1, 2, seed=1), [2])
    lengths = [store.length(0, seq) for seq in past._sequences]
    assert lengths == [62]


def test_bfloat16_and_fast(monkeypatch):
    model, ids = make(dtype=torch.bfloat16), token_ids(1, 120)

    def run():
        past = pm_kvq.Cache(model.config, 4, precision="fast", **SMALL)
        return fed(model, past, ids, [60] + [1] * 60).float()

    plain, paged = both(monkeypatch, run)
    assert (paged - plain).norm() < 0.1 * plain.norm()


def test_rows_that_multiply(monkeypatch):
    model, ids = make(), token_ids(2, 60)

    def run():
        past = pm_kvq.Cache(model.config, 8, **SMALL)
        fed(model, past, ids, [60])
        past.batch_repeat_interleave(3)
        past.reorder_cache(torch.tensor([5, 0, 1, 2, 2, 2]))
        past.batch_select_indices(torch.tensor([1, 0, 5]))
        logits = fed(model, past, token_ids(3, 20, seed=7), [1] * 20)
        return logits, past.nbytes()

    (plain, size), (paged, their_size) = both(monkeypatch, run)
    same(plain, paged)
    assert their_size == size
