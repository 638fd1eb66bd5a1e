"""A language model on quantized caches: what a budget of bytes costs in predictions and in time.

The same weights read the same text, piece by piece, each piece seeing what came before as the cache
kept it: so every prediction is one at the precision that the cache has there. Then they generate.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from warploom.cli import demo_kv_report
from warploom.cli.demo_kv_peers import cache_bytes, quanto
from warploom.cli.demo_model import HEAD_ROWS, MODEL, TEXT, Progress, dtype_named, load, text_ids

WIDTHS = (8, 4, 2)
_PIECE = 256  # tokens read at a time
_WARM = 512  # first tokens, which are not scored: no cache has shrunk yet
_CALIBRATION = (3, 1024)  # texts, tokens each: from beyond the text that is read
_AFTER = 8192  # where they begin
# Sink and window of ours take as many bytes as the window alone of a KIVI-style cache.
_WINDOW, _KIVI_WINDOW = 64, 128


class Method(NamedTuple):
    """A way to keep a cache within a budget."""

    name: str
    budget: int | None  # of bytes; None: 16 bits, without one
    make: Callable[[], Any]


@dataclass
class Outcome:
    nbytes: int = 0  # of the cache after the text
    peak: int = 0
    perplexity: float = 0.0
    last: float = 0.0  # perplexity of the text's last quarter
    divergence: float = 0.0  # from what 16 bits predict: mean KL
    step_ms: float = 0.0  # generating a token: the median step
    slowest_ms: float = 0.0  # the slowest: a cache that stalls to shrink shows here
    widths: list[list[tuple[float, float]]] = field(default_factory=list)  # of layers, each piece


def run(*, tokens: int, new_tokens: int, dtype: str, out: Path) -> int:
    if tokens < 2 * _WARM:
        raise ValueError(f"--tokens {tokens}: must be at least {2 * _WARM}")
    if new_tokens < 1:
        raise ValueError(f"--new-tokens {new_tokens}: must be at least 1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    say = Progress()
    say("loading transformers")
    from warploom.integrations.transformers import register
    from warploom.methods import pm_kvq

    register()
    chosen = dtype_named(dtype)
    say(f"reading SmolLM2-135M-Instruct, weights in {chosen}".replace("torch.", ""))
    tokenizer, model = load(chosen)
    model.set_attn_implementation("warploom")
    limit = model.config.max_position_embeddings
    if tokens > limit - new_tokens:
        raise ValueError(f"--tokens {tokens}: must be at most {limit - new_tokens} for this model")
    ids, texts = _texts(tokenizer, tokens)
    say(f"calibrating: sensitivity of every layer's keys and values, {len(texts)} texts")
    layout = pm_kvq.Layout.of(model.config, window=_WINDOW)
    profile = pm_kvq.sensitivity(model, texts, -(-tokens // _CALIBRATION[1]), layout)
    methods = _methods(model.config, profile, tokens + new_tokens)
    results: dict[str, Outcome] = {}
    exact: list[torch.Tensor] = []
    with torch.inference_mode():
        for number, method in enumerate(methods, 1):
            say(f"{number} of {len(methods)}: {method.name}")
            results[method.name] = _read_and_decode(model, ids, new_tokens, method, exact)
    summary = {
        "model": MODEL,
        "text": TEXT,
        "dtype": str(chosen).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "tokens": tokens,
        "scored_from": _WARM,
        "new_tokens": new_tokens,
        "methods": {
            method.name: {"budget": method.budget, **vars(results[method.name])}
            for method in methods
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "kv.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    demo_kv_report.plot(out / "kv.png", summary)
    print("\n" + demo_kv_report.table(summary))
    print(f"\nwrote {out / 'kv.json'} and {out / 'kv.png'} after {say.elapsed:.0f} s")
    return 0


def _texts(tokenizer: Any, tokens: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What is read, ``[1, s]``, and what is calibrated on, which is none of it."""
    count, size = _CALIBRATION
    begin = max(tokens, _AFTER)
    ids = text_ids(tokenizer, begin + count * _AFTER)
    texts = [ids[:, begin + n * _AFTER :][:, :size] for n in range(count)]
    return ids[:, :tokens], texts


def _methods(config: Any, profile: Any, longest: int) -> list[Method]:
    """16 bits, then for the bytes of each width: everything that fits them."""
    from warploom.methods import pm_kvq

    def kept(width: int, **options: Any) -> Callable[[], Any]:
        return lambda: pm_kvq.Cache(config, width, max_tokens=longest, **options)

    def mixed(budget: int) -> Callable[[], Any]:
        widths = pm_kvq.allocate(profile, budget, longest)
        return lambda: pm_kvq.Cache(config, widths)

    methods = [Method("16 bits", None, kept(16))]
    for width in WIDTHS:
        budget = profile.layout.uniform_nbytes(longest, width)
        methods += [
            Method(f"uniform {width}", budget, kept(width, window=_WINDOW, keys_per_channel=False)),
            Method(f"KIVI-style {width}", budget, kept(width, sink=0, window=_KIVI_WINDOW)),
        ]
        if (peer := quanto(config, width)) is not None:
            methods.append(Method(f"quanto {width}", budget, peer))
        methods.append(Method(f"PM-KVQ at {width}", budget, mixed(budget)))
    return methods


def _read_and_decode(
    model: Any, ids: torch.Tensor, new_tokens: int, method: Method, exact: list[torch.Tensor]
) -> Outcome:
    """One cache, through the text and some tokens of its own; ``exact`` is filled by the first."""
    cache, found = method.make(), Outcome()
    nll: list[torch.Tensor] = []
    divergence = 0.0
    filling = not exact
    head = model.lm_head.weight.float()
    for begin in range(0, ids.shape[1], _PIECE):
        piece = ids[:, begin : begin + _PIECE]
        hidden = model.model(piece, past_key_values=cache, use_cache=True).last_hidden_state[0]
        found.peak = max(found.peak, cache_bytes(cache))
        if hasattr(cache, "mean_bits"):
            found.widths.append(cache.mean_bits())
        if begin < _WARM:
            continue
        wanted = ids[0, begin + 1 : begin + 1 + _PIECE]
        for rows, labels in zip(
            hidden[: len(wanted)].split(HEAD_ROWS), wanted.split(HEAD_ROWS), strict=True
        ):
            predicted = (rows.float() @ head.T).log_softmax(-1)
            nll.append(-predicted.gather(1, labels[:, None])[:, 0].double())
            if filling:
                exact.append(predicted.half())
            else:
                truth = exact[len(nll) - 1].float()
                divergence += float((truth.exp() * (truth - predicted)).sum())
    scores = torch.cat(nll)
    found.perplexity = float(scores.mean().exp())
    found.last = float(scores[-(ids.shape[1] // 4) :].mean().exp())
    found.divergence = divergence / len(scores)
    found.nbytes = cache_bytes(cache)
    steps = _decode(model, cache, ids[:, -1:], new_tokens)
    found.step_ms, found.slowest_ms = 1e3 * median(steps), 1e3 * max(steps)
    return found


def _decode(model: Any, cache: Any, token: torch.Tensor, new_tokens: int) -> list[float]:
    """Greedy tokens: the seconds of each step."""
    seconds = []
    for _ in range(new_tokens):
        begin = time.perf_counter()
        token = model(token, past_key_values=cache, use_cache=True).logits.argmax(-1)
        seconds.append(time.perf_counter() - begin)
    return seconds
