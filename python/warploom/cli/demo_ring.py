"""A text cut over processes: each runs the model on its tokens, attention sees all of them.

The same weights read the same text in one process, and then over several processes of this machine,
by several schedules. What must not differ are the logits.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing import spawn  # type: ignore[attr-defined]

from warploom.cli.demo_model import HEAD_ROWS, MODEL, TEXT, Progress, dtype_named, load, text_ids

SCHEDULES = ("ring", "hamilton", "direct", "ulysses")
_MOST_RANKS = 9  # the model's query heads, which "ulysses" deals out


def run(*, tokens: int, ranks: int, dtype: str, out: Path) -> int:
    if not 2 <= ranks <= _MOST_RANKS:
        raise ValueError(f"--ranks {ranks}: must be 2 to {_MOST_RANKS}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    say = Progress()
    say("loading transformers")
    from warploom.integrations.transformers import register

    register()
    chosen = dtype_named(dtype)
    say(f"reading SmolLM2-135M-Instruct, weights in {chosen}".replace("torch.", ""))
    tokenizer, model = load(chosen)
    limit = model.config.max_position_embeddings
    if not ranks <= tokens <= limit:
        raise ValueError(f"--tokens {tokens}: must be {ranks} to {limit} for this model")
    ids = text_ids(tokenizer, tokens)
    threads = torch.get_num_threads()
    say(f"{tokens} tokens in one process, {threads} threads")
    model.set_attn_implementation("warploom")
    with torch.inference_mode():
        begin = time.perf_counter()
        alone = model.model(ids, use_cache=False).last_hidden_state[0]
        seconds = {"one process": time.perf_counter() - begin}
    each = max(threads // ranks, 1)
    say(f"the same over {ranks} processes, {each} threads each: {', '.join(SCHEDULES)}")
    together = _over_processes(model, ids, ranks, each)
    say("comparing")
    head = model.lm_head.weight
    runs = {"one process": alone}
    for name, result in together["runs"].items():
        runs[name], seconds[name] = result["hidden"], result["seconds"]
    with torch.inference_mode():
        head = model.lm_head.weight
        columns = {name: _judge(head, alone, hidden, ids[0]) for name, hidden in runs.items()}
    summary = {
        "model": MODEL,
        "text": TEXT,
        "dtype": str(chosen).removeprefix("torch."),
        "tokens": tokens,
        "ranks": ranks,
        "threads": {"one process": threads, "each of several": each},
        "tokens_of_a_rank": together["rows"],
        "columns": {name: {**found, "seconds": seconds[name]} for name, found in columns.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "ring.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    print("\n" + table(summary))
    print(f"\nwrote {out / 'ring.json'} after {say.elapsed:.0f} s")
    return 0


def table(summary: dict[str, Any]) -> str:
    """One process and every schedule side by side."""
    columns = summary["columns"]

    def row(what: str, key: str, form: str) -> str:
        return f"{what:<30}" + "".join(f"{column[key]:>14{form}}" for column in columns.values())

    held = summary["tokens_of_a_rank"]
    return "\n".join(
        [
            f"{summary['model']}, {summary['dtype']}",
            f"{summary['tokens']} tokens of {summary['text']}",
            f"{summary['ranks']} processes, of which each holds {min(held)} to {max(held)} tokens",
            "",
            f"{'':<30}" + "".join(f"{name:>14}" for name in columns),
            row("perplexity", "perplexity", ".4f"),
            row("same likeliest next token", "next_token_agreement", ".2%"),
            row("largest difference of a logit", "largest_logit_difference", ".1e"),
            row("largest logit", "largest_logit", ".1f"),
            row("seconds", "seconds", ".2f"),
        ]
    )


def _judge(
    head: torch.Tensor, alone: torch.Tensor, hidden: torch.Tensor, ids: torch.Tensor
) -> dict[str, float]:
    """What the hidden states ``[s, width]`` of a run predict, beside those of one process.

    Logits in float32: rounded to bfloat16, many of the likeliest would tie.
    """
    head = head.float()
    nll, same = [], []
    largest = difference = 0.0
    for ours, theirs, wanted in zip(
        *(t.split(HEAD_ROWS) for t in (hidden[:-1], alone[:-1], ids[1:])), strict=True
    ):
        a, b = ours.float() @ head.T, theirs.float() @ head.T
        nll.append(torch.nn.functional.cross_entropy(a, wanted, reduction="none").double())
        same.append((a.argmax(-1) == b.argmax(-1)).double())
        largest = max(largest, b.abs().max().item())
        difference = max(difference, (a - b).abs().max().item())
    return {
        "perplexity": float(torch.cat(nll).mean().exp()),
        "next_token_agreement": float(torch.cat(same).mean()),
        "largest_logit_difference": difference,
        "largest_logit": largest,
    }


def _over_processes(model: Any, ids: torch.Tensor, ranks: int, threads: int) -> dict[str, Any]:
    """Hidden states and seconds of every schedule; the weights are shared, not copied."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.pt"
        spawn(_rank, (ranks, threads, store.port, model, ids, path), nprocs=ranks)
        results: dict[str, Any] = torch.load(path)
    return results


def _rank(
    rank: int, ranks: int, threads: int, port: int, model: Any, ids: torch.Tensor, path: Path
) -> None:
    """One process."""
    from warploom.integrations.transformers_ring import register, sequence_parallel
    from warploom.methods import tasp

    torch.set_num_threads(threads)
    store = TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    register()
    model.set_attn_implementation("warploom_ring")
    part = tasp.Sharding(ids.shape[1])
    rows = [part.partition.rows(r) for r in range(ranks)]
    mine, positions = part.shard(ids), part.positions[None]
    runs = {}
    for schedule in SCHEDULES:
        dist.barrier()
        begin = time.perf_counter()
        with torch.inference_mode(), sequence_parallel(part, schedule):
            hidden = model.model(mine, position_ids=positions, use_cache=False).last_hidden_state
            whole = part.unshard(hidden)[0]
        runs[schedule] = {"hidden": whole.clone(), "seconds": time.perf_counter() - begin}
    if rank == 0:
        torch.save({"rows": rows, "runs": runs}, path)
    dist.destroy_process_group()
