"""What is known of a failed exchange, and the errors that say it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

AFTERWARDS = "This world cannot be used any more: close it and make a new one."


class RankStalledError(TimeoutError):
    """A rank did not take part in time. Its number, and the transfer that was due.

    Attributes: rank; run, round and chunk, each None where the failure is of no single one.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.rank, self.run = failure.rank, failure.run
        self.round, self.chunk = failure.round, failure.chunk


class RankLostError(ConnectionError):
    """A rank is gone, or left an exchange. Attributes as of `RankStalledError`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.rank, self.run = failure.rank, failure.run
        self.round, self.chunk = failure.round, failure.chunk


@dataclass(frozen=True)
class Missing:
    """One thing that a rank waits for from another, in words; of which round and chunk, if any."""

    rank: int
    round: int | None
    chunk: int | None
    what: str

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Failure:
    """The first failure that a world saw: who, how, and what was due."""

    kind: Literal["stalled", "lost"]
    rank: int
    reason: str
    found_by: int
    run: int | None = None
    round: int | None = None
    chunk: int | None = None
    due: str = ""

    def __str__(self) -> str:
        where = f" in exchange {self.run}" if self.run is not None else ""
        due = f": {self.due}" if self.due else ""
        return f"rank {self.rank} {self.reason}{where}{due} (found by rank {self.found_by})"

    def error(self, later: bool = False) -> RankStalledError | RankLostError:
        """The exception to raise; `later` at a use after the one that failed."""
        error = (RankStalledError if self.kind == "stalled" else RankLostError)(self)
        text = f"{self}. {AFTERWARDS}"
        error.args = (f"an earlier exchange failed: {text}" if later else text,)
        return error

    def to_message(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Failure:
        return cls(**{name: message[name] for name in cls.__dataclass_fields__})
