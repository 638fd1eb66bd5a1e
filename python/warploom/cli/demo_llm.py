"""The demo itself: score a text, then generate, by turns with SDPA and with warploom.

Both implementations run the same weights, at the same precision, in the same process, in turns.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from warploom.cli import demo_report
from warploom.cli.demo_model import HEAD_ROWS, MODEL, TEXT, Progress, dtype_named, load, text_ids
from warploom.perf.stats import paired_ratio, spread

IMPLEMENTATIONS = ("sdpa", "warploom")
_QUESTION = "Explain in one sentence what attention does in a language model."


@dataclass
class Outcome:
    """What one implementation did."""

    nll: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # float64 [tokens - 1]
    predicted: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # int64 [tokens - 1]
    generated: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    answer: str = ""
    prefill_rates: list[float] = field(default_factory=list)  # tokens a second, one a round
    decode_rates: list[float] = field(default_factory=list)
    peak_bytes: int | None = None


def run(*, tokens: int, new_tokens: int, dtype: str, rounds: int, out: Path) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    say = Progress()
    say("loading transformers")
    from warploom.integrations.transformers import register

    register()
    chosen = dtype_named(dtype)
    say(f"reading SmolLM2-135M-Instruct, weights in {chosen}".replace("torch.", ""))
    tokenizer, model = load(chosen)
    limit = model.config.max_position_embeddings
    if not 2 <= tokens <= limit - new_tokens:
        raise ValueError(f"--tokens {tokens}: must be 2 to {limit - new_tokens} for this model")
    ids = text_ids(tokenizer, tokens)
    results = {name: Outcome() for name in IMPLEMENTATIONS}
    with torch.inference_mode():
        for turn in range(rounds):
            order = IMPLEMENTATIONS if turn % 2 == 0 else IMPLEMENTATIONS[::-1]
            for name in order:
                say(
                    f"round {turn + 1} of {rounds}: {tokens} tokens, then {new_tokens} more, {name}"
                )
                model.set_attn_implementation(name)
                _score_and_decode(model, ids, new_tokens, results[name], first=turn == 0)
        for name, outcome in results.items():
            say(f"asking it a question, {name}")
            model.set_attn_implementation(name)
            outcome.answer = _answer(model, tokenizer)
    summary = _summary(results, str(chosen).removeprefix("torch."), tokens, new_tokens)
    out.mkdir(parents=True, exist_ok=True)
    (out / "llm.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    curves = {name: outcome.nll.tolist() for name, outcome in results.items()}
    demo_report.plot(out / "llm.png", summary, curves)
    print("\n" + demo_report.table(summary))
    print(f"\nwrote {out / 'llm.json'} and {out / 'llm.png'} after {say.elapsed:.0f} s")
    return 0


def _score_and_decode(
    model: Any, ids: torch.Tensor, new_tokens: int, outcome: Outcome, *, first: bool
) -> None:
    """One timed prefill and greedy decode; scores and peak memory come from the first round."""
    from transformers import DynamicCache

    tokens = ids.shape[1]
    watching = first and _forget_peak_memory()
    cache = DynamicCache(config=model.config)
    begin = time.perf_counter()
    hidden = model.model(ids, past_key_values=cache, use_cache=True).last_hidden_state
    outcome.prefill_rates.append(tokens / (time.perf_counter() - begin))
    token = model.lm_head(hidden[:, -1:]).argmax(-1)
    generated = [token]
    begin = time.perf_counter()
    for _ in range(new_tokens - 1):
        token = model(token, past_key_values=cache, use_cache=True).logits.argmax(-1)
        generated.append(token)
    outcome.decode_rates.append((new_tokens - 1) / (time.perf_counter() - begin))
    if watching:
        outcome.peak_bytes = _peak_memory()
    if first:
        outcome.generated = torch.cat(generated, 1)
        outcome.nll, outcome.predicted = _score(model.lm_head.weight, hidden[0], ids[0])


def _score(
    head: torch.Tensor, hidden: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of each next token, and the likeliest one.

    Logits in float32: rounded to bfloat16, many of the likeliest would tie.
    """
    nll, predicted = [], []
    head = head.float()
    for rows, wanted in zip(hidden[:-1].split(HEAD_ROWS), ids[1:].split(HEAD_ROWS), strict=True):
        logits = rows.float() @ head.T
        nll.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none").double())
        predicted.append(logits.argmax(-1))
    return torch.cat(nll), torch.cat(predicted)


def _answer(model: Any, tokenizer: Any) -> str:
    chat = [{"role": "user", "content": _QUESTION}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(
        **prompt, max_new_tokens=60, do_sample=False, pad_token_id=tokenizer.eos_token_id
    )
    words = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(words).strip()


def _forget_peak_memory() -> bool:
    """Starts a new maximum of this process's resident memory; False where Linux is not below."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _peak_memory() is not None


def _peak_memory() -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _summary(
    results: dict[str, Outcome], dtype: str, tokens: int, new_tokens: int
) -> dict[str, Any]:
    theirs, ours = (results[name] for name in IMPLEMENTATIONS)
    agreement = (theirs.predicted == ours.predicted).double().mean()
    return {
        "model": MODEL,
        "text": TEXT,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "tokens": tokens,
        "new_tokens": new_tokens,
        "question": _QUESTION,
        "next_token_agreement": float(agreement),
        "same_generated_tokens": bool(torch.equal(theirs.generated, ours.generated)),
        "prefill_ratio": paired_ratio(ours.prefill_rates, theirs.prefill_rates)._asdict(),
        "decode_ratio": paired_ratio(ours.decode_rates, theirs.decode_rates)._asdict(),
        "implementations": {
            name: {
                "perplexity": float(outcome.nll.mean().exp()),
                "prefill_tokens_per_second": spread(outcome.prefill_rates)._asdict(),
                "decode_tokens_per_second": spread(outcome.decode_rates)._asdict(),
                "peak_memory_bytes": outcome.peak_bytes,
                "answer": outcome.answer,
            }
            for name, outcome in results.items()
        },
    }
