"""Costs of widths against gradients taken another way."""

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5")

from warploom.methods import pm_kvq  # noqa: E402
from warploom.methods.pm_kvq import calibration  # noqa: E402
from warploom.methods.pm_kvq.layout import WIDTHS, Layout  # noqa: E402
from warploom.methods.pm_kvq.quantization import as_stored  # noqa: E402
from warploom.methods.pm_kvq.sensitivity import attend_apart  # noqa: E402

from .kv_models import make, token_ids  # noqa: E402

LAYOUT = Layout(layers=2, kv_heads=2, head_dim=16, page_size=16, sink=1, window=16)


def gradients_of_far_pairs(model, ids, positions, layout, drawn):
    """By matrices: keys and values that a query sees beyond the window are leaves of their own."""
    leaves, stored = {}, {}

    def eager(module, query, key, value, mask, scaling=None, **_):
        s, group = query.shape[2], query.shape[1] // key.shape[1]
        far_k, far_v = (torch.zeros_like(x).requires_grad_() for x in (key, value))
        leaves[module.layer_idx], stored[module.layer_idx] = (far_k, far_v), (key, value)
        distance = torch.arange(s)[:, None] - torch.arange(s)
        far = distance >= layout.window

        def scores(k):
            return query @ k.repeat_interleave(group, 1).transpose(2, 3) * scaling

        both = torch.where(far, scores(key + far_k), scores(key))
        p = both.masked_fill(distance < 0, -torch.inf).softmax(-1)
        wide = value.repeat_interleave(group, 1)
        o = (p * ~far) @ wide + (p * far) @ (wide + far_v.repeat_interleave(group, 1))
        return o.transpose(1, 2).contiguous(), None

    transformers.AttentionInterface.register("far_pairs", eager)
    transformers.masking_utils.AttentionMaskInterface.register(
        "far_pairs", transformers.masking_utils.eager_mask
    )
    model.set_attn_implementation("far_pairs")
    logits = model(ids, position_ids=positions, use_cache=False).logits
    predicted, labels = logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    if drawn:
        odds, seeded = predicted.detach().softmax(-1), torch.Generator().manual_seed(0)
        labels = torch.multinomial(odds, 1, generator=seeded).flatten()
    loss = torch.nn.functional.cross_entropy(predicted, labels, reduction="sum")
    loss.backward()
    model.set_attn_implementation("warploom")
    return stored, leaves


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("measure", ["squared", "absolute"])
def test_costs_are_those_of_far_pairs(per_channel, measure):
    layout = Layout(2, 2, 16, page_size=16, sink=1, window=16, keys_per_channel=per_channel)
    model, ids = make(), token_ids(2, 96)
    profile = pm_kvq.sensitivity(model, [ids], 3, layout, measure)
    positions = 3 * torch.arange(96)[None]
    stored, leaves = gradients_of_far_pairs(model, ids, positions, layout, measure == "squared")
    for layer in range(2):
        for kind in range(2):
            x, gradient = stored[layer][kind].detach(), leaves[layer][kind].grad
            assert profile.cost[layer][kind][0] == 0
            for n, width in enumerate(WIDTHS[1:], 1):
                move = (as_stored(x, width, kind, layout) - x)[:, :, 16:] * gradient[:, :, 16:]
                each = move.sum(-1).square() if measure == "squared" else move.abs()
                wanted = (each.sum() / ids.numel()).item()
                assert wanted > 0
                assert profile.cost[layer][kind][n] == pytest.approx(wanted, rel=2e-3)


def test_costs_grow_as_widths_shrink():
    profile = pm_kvq.sensitivity(make(), [token_ids(128)], layout=LAYOUT)
    for layer in profile.cost:
        for kind in layer:
            assert list(kind) == sorted(kind)


def test_the_model_stays_as_it_was():
    model = make().train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    pm_kvq.sensitivity(model, [token_ids(64)], layout=LAYOUT)
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert model.training
    assert model.config._attn_implementation == "warploom"
    assert all(p.grad is None for p in model.parameters())
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["lm_head.weight"]


def test_positions_are_stretched():
    near, far = (pm_kvq.sensitivity(make(), [token_ids(64)], n, LAYOUT) for n in (1, 4))
    assert near.cost != far.cost


def test_squared_costs_are_the_divergence_of_predictions():
    """Twice the KL divergence that storing one layer's values at 4 bits makes, roughly."""
    model, layout = make(), LAYOUT
    texts = [token_ids(128, seed=n) for n in range(6)]
    cost = pm_kvq.sensitivity(model, texts, 1, layout).cost
    for layer in range(2):
        measured = sum(divergence(model, ids[None], layer, layout) for ids in texts) / len(texts)
        assert 0.4 < cost[layer][1][2] / (2 * measured) < 2.5


def divergence(model, ids, layer, layout):
    """Mean over positions, of far values of one layer as stored at 4 bits."""

    def predicted(width):
        def attend(index, q, k, v, scale):
            stored = v
            if index == layer:
                stored = as_stored(v.transpose(1, 2), width, 1, layout).transpose(1, 2)
                stored = torch.cat([v[:, : layout.kept], stored[:, layout.kept :]], 1)
            return attend_apart(q, (k, v), (k, stored), layout.window, scale)

        with torch.no_grad(), calibration.attending(model, attend):
            return model(ids, use_cache=False).logits[0].log_softmax(-1)

    return torch.nn.functional.kl_div(
        predicted(4), predicted(16), log_target=True, reduction="batchmean"
    ).item()


def test_profiles_are_kept_in_files(tmp_path):
    profile = pm_kvq.sensitivity(make(), [token_ids(64)], layout=LAYOUT)
    profile.save(tmp_path / "profile.json")
    assert pm_kvq.Profile.load(tmp_path / "profile.json") == profile


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "texts is empty"),
        ([token_ids(64).int()], {}, r"texts\[0\] is torch.int32"),
        ([token_ids(64), token_ids(1, 2, 64)], {}, r"texts\[1\] has shape \(1, 2, 64\)"),
        ([token_ids(32)], {}, r"texts\[0\] has 32 positions: must be more than 32"),
        ([token_ids(64)], {"position_scale": 0}, "position_scale is 0"),
        ([token_ids(64)], {"measure": "cubic"}, "measure is 'cubic'"),
    ],
)
def test_wrong_arguments(texts, options, message):
    with pytest.raises(ValueError, match=message):
        pm_kvq.sensitivity(make(), texts, layout=LAYOUT, **options)
