"""The ``warploom`` command: one module a subcommand, imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "doctor": "what this machine can run, what is missing and how to get it",
    "perf": "measure ceilings, peers and warploom in one run",
    "topology": "which schedule fits a workload on given links, by predicted time",
    "memory": "what a training step allocates, and a plan of where it lives",
    "demo": "real models on warploom's kernels",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``warploom COMMAND ...``; each command's module has ``add_arguments`` and ``run``.

    Returns:
        The exit status: what ``run`` returned, or 2 after one line on what was wrong.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="warploom", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == wanted:
            module = importlib.import_module(f"warploom.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except (ValueError, ImportError, OSError) as error:  # what a user can mend
        print(f"warploom {wanted}: {error}", file=sys.stderr)
        return 2
