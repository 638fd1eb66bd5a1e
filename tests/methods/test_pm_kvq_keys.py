"""Keys that are hard to quantize: found, and made easier without changing the model."""

import warnings

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5")

from warploom.methods import pm_kvq  # noqa: E402
from warploom.methods.pm_kvq import smoothing  # noqa: E402
from warploom.methods.pm_kvq.layout import KEYS, Layout  # noqa: E402
from warploom.methods.pm_kvq.quantization import as_stored  # noqa: E402

from .kv_models import make, near, token_ids  # noqa: E402

TEXTS = [token_ids(80), token_ids(2, 64, seed=2)]


def keys_of(model, ids):
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    return [layer.keys for layer in cache.layers]


def planted(kind=transformers.Qwen2Config):
    """Layer 1 has a pair of channels, of the second head, far larger than the rest."""
    model = make(kind)
    projection = model.model.layers[1].self_attn.k_proj
    with torch.no_grad():
        projection.weight[16 + 3] *= 40
        projection.weight[16 + 3 + 8] *= 25
    return model


def lost_of_small_channels(model):
    """By storing layer 1's keys at 4 bits per token: each channel beside its own size."""
    keys = keys_of(model, TEXTS[0][None])[1]
    moved = as_stored(keys, 4, KEYS, Layout.of(model.config, keys_per_channel=False)) - keys
    size = keys.square().mean((0, 2), keepdim=True).sqrt()
    return (moved / size).square().mean().item()


@pytest.mark.parametrize("kind", [transformers.LlamaConfig, transformers.Qwen2Config])
def test_smoothing_changes_keys_and_not_the_model(kind):
    model, ids = planted(kind), TEXTS[0][None]
    if kind is transformers.Qwen2Config:
        torch.nn.init.normal_(model.model.layers[0].self_attn.k_proj.bias)
        torch.nn.init.normal_(model.model.layers[0].self_attn.q_proj.bias)
    with torch.no_grad():
        before = model(ids, use_cache=False).logits
    lost = lost_of_small_channels(model)
    assert pm_kvq.smooth(model, TEXTS) is model
    with torch.no_grad():
        after = model(ids, use_cache=False).logits
    assert near(after, before)
    assert lost_of_small_channels(model) < 0.5 * lost
    assert model.config._attn_implementation == "warploom"


def test_norms_after_projections_are_refused():
    with pytest.raises(NotImplementedError, match="layer 0 of Qwen3ForCausalLM has a q_norm"):
        pm_kvq.smooth(make(transformers.Qwen3Config), TEXTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_rotations_are_refused_and_leave_the_model(dtype):
    """Cohere rotates neighbouring channels: scores would change."""
    model = make(transformers.CohereConfig).to(dtype)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[3] *= 40
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with pytest.raises(NotImplementedError, match="does not pair channel i"):
        pm_kvq.smooth(model, TEXTS)
    for name, p in model.state_dict().items():
        assert torch.equal(p, before[name])


def test_an_interruption_leaves_the_model(monkeypatch):
    model, fold, folded = planted(), smoothing._fold, []

    def interrupted(module, scale):
        fold(module, scale)
        folded.append(module)
        if len(folded) == len(model.model.layers):
            raise KeyboardInterrupt

    before = {name: p.clone() for name, p in model.state_dict().items()}
    monkeypatch.setattr(smoothing, "_fold", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pm_kvq.smooth(model, TEXTS)
    assert len(folded) > 1
    for name, p in model.state_dict().items():
        assert torch.equal(p, before[name])


def test_a_swamping_bias_is_found_and_named():
    model = make(transformers.Qwen2Config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pm_kvq.key_outliers(model, TEXTS) == []
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.bias[16 + 15] = 600.0
    with pytest.warns(RuntimeWarning, match=r"layers 1 swamp .*layer 1, head 1: \d+ times"):
        found = pm_kvq.key_outliers(model, TEXTS)
    assert [(outlier.layer, outlier.head) for outlier in found] == [(1, 1)]
    assert found[0].ratio > 50


def test_grids_per_channel_treat_it():
    """A bias in a slow pair: other channels keep their levels."""
    model = make(transformers.Qwen2Config)
    clean = keys_of(model, TEXTS[0][None])[1]
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.bias[7] = 600.0
    keys = keys_of(model, TEXTS[0][None])[1]
    others = [c for c in range(16) if c not in (7, 15)]

    def lost(per_channel):
        layout = Layout.of(model.config, keys_per_channel=per_channel, page_size=16)
        moved = as_stored(keys, 4, KEYS, layout) - keys
        return (moved[..., others].norm() / clean[..., others].norm()).item()

    assert lost(per_channel=True) < 0.1
    assert lost(per_channel=False) > 0.5


def test_a_model_without_separate_projections_is_refused():
    model = make(transformers.Phi3Config)
    with pytest.raises(NotImplementedError, match="has no q_proj that is a Linear"):
        pm_kvq.key_outliers(model, TEXTS)
