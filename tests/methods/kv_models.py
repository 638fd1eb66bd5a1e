"""Tiny random transformers models for tests of the quantized cache."""

from __future__ import annotations

from copy import deepcopy

import torch
import transformers

from warploom.integrations.transformers import register
from warploom.testing.compare import peer_distance

register()

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # logits that differ: attention far from an average
}


def make(kind=transformers.LlamaConfig, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    config = kind(**{**SIZES, **changes})
    return transformers.AutoModelForCausalLM.from_config(
        deepcopy(config), attn_implementation="warploom", dtype=dtype
    ).eval()


def near(actual, expected):
    """Whether results are alike whose keys and values were rounded to bfloat16 the one way or the
    other: products of other shapes sum in another order."""
    return peer_distance(actual, expected) < 2e-3


def token_ids(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, SIZES["vocab_size"], shape, generator=generator)
