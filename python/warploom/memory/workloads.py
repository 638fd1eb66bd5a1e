"""Training steps of known models as traces: shapes by transformers, tensors without memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from warploom.memory.trace import Trace


@dataclass(frozen=True)
class Workload:
    """A model's shape and a training step.

    ``config`` names a class of transformers, ``shape`` its arguments. The step: forward and
    backward of each microbatch in bfloat16, then AdamW, after which gradients go.
    """

    config: str
    shape: dict[str, Any]
    batch: int
    sequence: int
    microbatches: int = 1
    recompute: bool = False


_GPT2 = {"n_layer": 24, "n_embd": 1024, "n_head": 16, "n_positions": 1024, "vocab_size": 50257}
_LLAMA2 = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
_QWEN_MOE = {
    "num_hidden_layers": 24,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 5632,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "vocab_size": 151936,
}

WORKLOADS = {
    "gpt2-345m": Workload("GPT2Config", _GPT2, 8, 1024),
    "gpt2-345m-recompute": Workload("GPT2Config", _GPT2, 16, 1024, recompute=True),
    "gpt2-345m-microbatches": Workload("GPT2Config", _GPT2, 4, 1024, microbatches=8),
    "llama2-7b": Workload("LlamaConfig", _LLAMA2, 1, 4096),
    "llama2-7b-recompute": Workload("LlamaConfig", _LLAMA2, 4, 4096, recompute=True),
    "qwen-moe": Workload("Qwen2MoeConfig", _QWEN_MOE, 1, 4096),
    "qwen-moe-recompute": Workload("Qwen2MoeConfig", _QWEN_MOE, 4, 4096, recompute=True),
}


def record(name: str, *, warmup: int = 1, steps: int = 2) -> Trace:
    """The trace of a model of ``WORKLOADS``.

    Raises:
        ValueError: the name is none of them.
        ImportError: torch or transformers is missing.
    """
    if name not in WORKLOADS:
        raise ValueError(f"name is {name!r}: must be one of {', '.join(WORKLOADS)}")
    from warploom.memory import recorder

    mode = recorder.fake_mode()
    with mode:
        step = training_step(WORKLOADS[name])
    return recorder.record(step, warmup=warmup, steps=steps, fake=mode)


def training_step(workload: Workload) -> Callable[[], None]:
    """Builds the model and its optimizer where it is called; returns what does a step.

    Raises:
        ImportError: torch or transformers is missing.
    """
    import torch
    import transformers

    config = getattr(transformers, workload.config)(
        **workload.shape, use_cache=False, attn_implementation="sdpa"
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.train()
    if workload.recompute:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False)

    def step() -> None:
        for _ in range(workload.microbatches):
            tokens = torch.zeros(workload.batch, workload.sequence, dtype=torch.int64)
            loss = model(input_ids=tokens, labels=tokens).loss
            (loss / workload.microbatches).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
