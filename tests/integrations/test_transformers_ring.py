"""transformers models on a sequence cut over simulated ranks, against the same in one piece."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="4.56")

from warploom.distributed import run_ranks  # noqa: E402
from warploom.integrations import transformers as whole  # noqa: E402
from warploom.integrations.transformers_ring import (  # noqa: E402
    attention_forward,
    register,
    sequence_parallel,
)
from warploom.methods import tasp  # noqa: E402
from warploom.testing.compare import peer_bound, peer_distance  # noqa: E402

whole.register()
register()

SIZES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


def model_of(config, implementation):
    torch.manual_seed(0)
    kind = transformers.AutoModelForCausalLM
    return kind.from_config(config(**SIZES), attn_implementation=implementation).eval()


def mistral(**sizes):
    return transformers.MistralConfig(**sizes, sliding_window=9)


@pytest.mark.parametrize("config", [transformers.LlamaConfig, mistral])
@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
def test_logits_and_gradients_are_those_of_one_process(config, layout):
    ids = torch.randint(97, (1, 41), generator=torch.Generator().manual_seed(0))
    alone = model_of(config, "warploom")
    logits = alone(ids).logits
    (logits.sin().sum() / 41).backward()
    models = [model_of(config, "warploom_ring") for _ in range(3)]

    def rank(world):
        part, model = tasp.Sharding(41, world, layout), models[world.rank]
        with sequence_parallel(part, "direct"):
            rows = model(part.shard(ids), position_ids=part.positions[None], use_cache=False).logits
            (rows.sin().sum() / 41).backward()
        return part.unshard(rows.detach()), [p.grad for p in model.parameters()]

    results = run_ranks(3, rank)
    assert peer_distance(results[0][0], logits.detach()) <= peer_bound(torch.float32)
    for (name, p), *shares in zip(
        alone.named_parameters(), *(grads for _, grads in results), strict=True
    ):
        assert peer_distance(sum(shares), p.grad) <= peer_bound(torch.float32), name


def test_outside_its_context_it_says_so():
    x = torch.zeros(1, 1, 1, 8)
    with pytest.raises(RuntimeError, match="outside sequence_parallel"):
        attention_forward(torch.nn.Identity(), x, x, x, None)


def test_padding_is_refused():
    ids = torch.ones(1, 4, dtype=torch.long)
    model = model_of(transformers.LlamaConfig, "warploom_ring")

    def rank(world):
        with (
            sequence_parallel(tasp.Sharding(4, world)),
            pytest.raises(NotImplementedError, match="takes no padding"),
        ):
            model(ids, attention_mask=torch.tensor([[0, 1, 1, 1]]))

    run_ranks(1, rank)
