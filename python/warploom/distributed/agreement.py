"""Ranks compare what they are about to do before any data moves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from itertools import chain

from warploom.distributed.monitor import Monitor

LONGEST_VALUE = 300  # characters of a value in an error


class RanksDisagreeError(ValueError):
    """Ranks were about to exchange different things. Attributes: key; values, by rank."""

    def __init__(self, run: int, key: str, values: Mapping[int, str]) -> None:
        super().__init__(f"ranks disagree on {key} in exchange {run}: {describe(values)}")
        self.run, self.key, self.values = run, key, dict(values)

    def __reduce__(self) -> tuple[type, tuple[int, str, dict[int, str]]]:
        return type(self), (self.run, self.key, self.values)


def describe(values: Mapping[int, str]) -> str:
    """Says who differs: the ranks outside the majority, or each side where there is none."""
    (common, count), *rest = Counter(values.values()).most_common()
    majority = not rest or count > rest[0][1]
    words = []
    holders = {v: [rank for rank in sorted(values) if values[rank] == v] for v in values.values()}
    for value, ranks in sorted(
        holders.items(), key=lambda item: (majority and item[0] == common, item[1])
    ):
        who = f"rank {ranks[0]} has" if len(ranks) == 1 else f"ranks {ranks} have"
        if majority and value == common:
            who = "the others have" if len(ranks) > 1 else f"rank {ranks[0]} has"
        words.append(f"{who} {shortened(value)}")
    return ", ".join(words)


def shortened(value: str) -> str:
    if len(value) <= LONGEST_VALUE:
        return value
    digest = hashlib.blake2b(value.encode(), digest_size=4).hexdigest()
    return f"{value[:LONGEST_VALUE]}... ({len(value)} characters, digest {digest})"


def agree(monitor: Monitor, run: int, contract: Mapping[str, object], timeout: float) -> None:
    """Compares the contract with all ranks'. Digests travel; the values only where they differ.

    Where several keys differ the first in the contract's order is named: put causes before effects.

    Raises:
      RanksDisagreeError: on every rank, naming the first key that differs, and on which ranks.
      RankStalledError, RankLostError: a rank did not come to this exchange.
    """
    own = json.dumps({key: str(value) for key, value in contract.items()}, sort_keys=True)
    digest = hashlib.blake2b(own.encode(), digest_size=16).hexdigest()
    what = f"the start of exchange {run}"
    digests = monitor.gather(run, "digest", digest, timeout, what)
    if len(set(digests.values())) == 1:
        return
    texts = monitor.gather(run, "contract", own, timeout, what)
    contracts = {rank: json.loads(text) for rank, text in sorted(texts.items())}
    for key in dict.fromkeys(chain(contract, *contracts.values())):
        values = {rank: c.get(key, "nothing") for rank, c in contracts.items()}
        if len(set(values.values())) > 1:
            raise RanksDisagreeError(run, key, values)
    raise AssertionError("digests differ and contracts do not")
