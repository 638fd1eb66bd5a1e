"""What is known of a failed exchange, and the errors that say it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["stalled", "lost"]
AFTERWARDS = (
    "This world cannot be used any more, nor can its process group and what was made over them: "
    "make new ones"
)


class _RankError(OSError):
    """An error that knows its failure, also after it went to another process.

    Attributes: rank, the one at fault; run, round and chunk, None where it is of no single one.
    """

    def __init__(self, failure: Failure, later: bool = False) -> None:
        earlier = "an earlier exchange failed: " if later else ""
        super().__init__(f"{earlier}{failure}. {AFTERWARDS}.")
        self.failure, self.later = failure, later
        self.rank, self.run = failure.rank, failure.run
        self.round, self.chunk = failure.round, failure.chunk

    def __reduce__(self) -> tuple[type, tuple[Failure, bool]]:
        return type(self), (self.failure, self.later)


class RankStalledError(_RankError, TimeoutError):
    """A rank did not take part in time: `rank`; what was due from it: `run`, `round`, `chunk`."""


class RankLostError(_RankError, ConnectionError):
    """A rank is gone, or left an exchange: `rank`; what was due: `run`, `round`, `chunk`."""


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

    kind: Kind
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
        return (RankStalledError if self.kind == "stalled" else RankLostError)(self, later)

    def to_message(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Failure:
        return cls(**{name: message[name] for name in cls.__dataclass_fields__})
