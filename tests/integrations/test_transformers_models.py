"""Whole models, tiny and random, with attn_implementation="warploom" against "eager".

The rule is that of every kernel: an oracle in float64, and eager attention in the model's precision
beside it. What transformers itself computes in float32 (norms, rotations) it does in all three.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="4.56")

from warploom.integrations.transformers import attention_forward, register  # noqa: E402
from warploom.testing.compare import assert_matches  # noqa: E402

register()


def exact_attention(module, query, key, value, mask, scaling=None, softcap=None, **_):
    """Eager attention without its softmax in float32."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


transformers.AttentionInterface.register("exact", exact_attention)
transformers.masking_utils.AttentionMaskInterface.register(
    "exact", transformers.masking_utils.eager_mask
)

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # logits that differ: attention far from an average
}


def llama(**changes):
    return transformers.LlamaConfig(**{**SIZES, **changes})


def mistral(**changes):
    return transformers.MistralConfig(**{**SIZES, "sliding_window": 5, **changes})


def gemma2(**changes):
    softcap = {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 5}
    return transformers.Gemma2Config(**{**SIZES, "sliding_window": 5, **softcap, **changes})


CONFIGS = pytest.mark.parametrize("config", [llama, mistral, gemma2], ids=lambda f: f.__name__)


def models(config, dtype=torch.float32, kind=transformers.AutoModelForCausalLM):
    """The same weights three times: exact in float64, on eager attention, and on warploom's."""
    torch.manual_seed(0)
    exact, eager, ours = (
        # a model keeps its configuration and writes the implementation into it: one each
        kind.from_config(deepcopy(config), attn_implementation=name, dtype=dtype).eval()
        for name in ("exact", "eager", "warploom")
    )
    for model in (exact, ours):
        model.load_state_dict(eager.state_dict())
    assert eager.config._attn_implementation == "eager"
    assert ours.config._attn_implementation == "warploom"
    return exact.double(), eager, ours


def tokens(*lengths: int, side: str, width: int = 14):
    """Random ids [b, width] padded at a side, and the padding mask."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, SIZES["vocab_size"], (len(lengths), width), generator=generator)
    places = torch.arange(width)
    if side == "left":
        mask = torch.stack([places >= width - n for n in lengths])
    else:
        mask = torch.stack([places < n for n in lengths])
    return ids.where(mask, torch.tensor(SIZES["pad_token_id"])), mask.long()


def judge(results, rows=...):
    """Of results in the order of :func:`models`, where ``rows`` picks what counts."""
    exact, theirs, ours = (result[rows] for result in results)
    assert_matches("result", ours, exact, theirs)


@CONFIGS
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_with_padding(config, side, dtype):
    ids, mask = tokens(14, 9, 1, side=side)
    with torch.no_grad():
        judge([m(ids, attention_mask=mask).logits for m in models(config(), dtype)], mask.bool())


@CONFIGS
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_greedy_generation_is_the_same(config, cache):
    ids, mask = tokens(14, 6, 14, side="left")
    options = {
        "attention_mask": mask,
        "max_new_tokens": 12,
        "do_sample": False,
        "cache_implementation": cache,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    results = [model.generate(ids, **options) for model in models(config())]
    for result in results[1:]:
        assert torch.equal(result.sequences, results[0].sequences)
    exact, *others = (torch.stack(result.logits) for result in results)
    judge([exact.double(), *others])  # generate() hands out float32


@CONFIGS
def test_prefill_in_two_pieces(config):
    """A second piece of a prompt attends to the first one in the cache, padding included."""
    ids, mask = tokens(14, 11, side="left")
    results = []
    for model in models(config()):
        cache = transformers.DynamicCache(config=model.config)
        with torch.no_grad():
            model(ids[:, :4], attention_mask=mask[:, :4], past_key_values=cache)
            output = model(ids[:, 4:], attention_mask=mask, past_key_values=cache)
        results.append(output.logits[mask[:, 4:].bool()])
    judge(results)


@CONFIGS
@pytest.mark.parametrize("side", ["left", "right"])
def test_training_step_gradients(config, side):
    trained = models(config())
    ids, mask = tokens(14, 9, 3, side=side)
    # the first token of a row would be predicted from what comes before it: padding
    before = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    labels = ids.where((mask * before).bool(), torch.tensor(-100))
    for model in trained:
        model.train()
        model(ids, attention_mask=mask, labels=labels).loss.backward()
    gradients = [[parameter.grad for parameter in model.parameters()] for model in trained]
    sizes = [gradient.square().mean().sqrt() for gradient in gradients[0]]
    assert all(sizes)
    # In units of each one's size, as one result: some have too few elements by themselves.
    judge([torch.cat([(g / size).flatten() for g, size in zip(gs, sizes, strict=True)])
           for gs in gradients])  # fmt: skip


def test_packed_sequences_train_apart():
    """Positions that restart mark sequences packed into one row, as data collators do."""
    ids, _ = tokens(12, side="right", width=12)
    places = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
    exact, eager, ours = models(llama())
    with torch.no_grad():
        packed = [m(ids, position_ids=places, use_cache=False).logits for m in (exact, eager, ours)]
        alone = [m(ids[:, :5], use_cache=False).logits for m in (exact, eager)]
    judge(packed)
    judge([*alone, packed[2][:, :5]])


from_5 = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5,
    reason="transformers 4 makes encoders' masks without asking the attention implementation",
)


@from_5
def test_encoder_with_padding():
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = transformers.BertConfig(vocab_size=97, intermediate_size=64, **sizes)
    ids, mask = tokens(14, 9, 2, side="right")
    with torch.no_grad():
        encoded = [
            model(ids, attention_mask=mask).last_hidden_state
            for model in models(config, kind=transformers.AutoModel)
        ]
    judge(encoded, mask.bool())


@from_5
def test_encoder_and_decoder_with_padding():
    config = transformers.BartConfig(
        vocab_size=97, d_model=48, encoder_layers=1, decoder_layers=1, encoder_attention_heads=3,
        decoder_attention_heads=3, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=0,
        max_position_embeddings=64, dropout=0.0,
    )  # fmt: skip
    _, eager, ours = models(config, kind=transformers.AutoModelForSeq2SeqLM)
    ids, mask = tokens(14, 9, side="right")
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "num_beams": 2}
    assert torch.equal(ours.generate(ids, **options), eager.generate(ids, **options))


def test_dropout_is_refused():
    *_, ours = models(llama(attention_dropout=0.1))
    ids, mask = tokens(14, side="right")
    ours(ids, attention_mask=mask)  # evaluation drops nothing
    with pytest.raises(NotImplementedError, match=r"dropout is 0\.1"):
        ours.train()(ids, attention_mask=mask)


def test_attention_weights_are_refused():
    *_, ours = models(llama())
    ids, mask = tokens(14, side="right")
    with pytest.raises(NotImplementedError, match="output_attentions"):
        ours(ids, attention_mask=mask, output_attentions=True)


def test_prepared_masks_are_refused():
    *_, ours = models(llama())
    ids, _ = tokens(14, side="right")
    with pytest.raises(NotImplementedError, match=r"shape \(1, 1, 14, 14\)"):
        ours(ids, attention_mask=torch.ones(1, 1, 14, 14, dtype=torch.bool))


@pytest.mark.parametrize("name", ["s_aux", "position_bias", "head_mask", "cache"])
def test_other_arguments_are_refused_by_name(name):
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(NotImplementedError, match=name):
        attention_forward(torch.nn.Module(), q, q, q, None, **{name: torch.ones(2)})


def judge_against_sdpa(out, q, k):
    """``out`` [b, s, h, d] against SDPA of q and k [b, h, s, d], with the keys for values."""
    exact, theirs = (
        torch.nn.functional.scaled_dot_product_attention(x, y, y).transpose(1, 2)
        for x, y in ((q.double(), k.double()), (q, k))
    )
    judge([exact, theirs, out])


def test_a_lone_query_without_a_mask_keeps_its_window():
    q, k = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 6, 8)
    out, _ = attention_forward(torch.nn.Module(), q, k, k, None, sliding_window=3)
    judge_against_sdpa(out, q, k[:, :, 3:])


def test_without_a_mask_the_layer_decides():
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 6, 8)
    layer = torch.nn.Module()
    layer.is_causal = False
    out, weights = attention_forward(layer, q, k, k, None)
    judge_against_sdpa(out, q, k)
    assert weights is None
    with pytest.raises(NotImplementedError, match="4 queries, 6 keys"):
        attention_forward(layer, q, k, k, None, is_causal=True)


def test_a_plan_for_other_sizes_is_refused():
    from warploom.integrations.transformers_masks import plan_mask

    masking = transformers.masking_utils
    plan = plan_mask(1, 5, masking.causal_mask_function, q_length=4)
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match=r"\(1, 4, 5\).*\(1, 4, 4\)"):
        attention_forward(torch.nn.Module(), q, q, q, plan)
