"""Which ranks can send to which, over what, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from warploom import _core

_GIGA = 1e9  # 1 GB/s = 1e9 bytes/s
_MICRO = 1e-6


@dataclass(frozen=True)
class Topology:
    """Ranks and the links between them; make one with the class methods.

    Bandwidths are GB/s (1 GB/s = 1e9 bytes/s) in one direction, times µs. ``latency_us`` is the
    time from posting a transfer until its first byte arrives; ``overhead_us`` the time that a rank
    is busy with each message beside the link's own time.

    All class methods raise ``ValueError``, naming the argument, for fewer than 2 ranks, a bandwidth
    that is not finite and above 0, a time that is not finite and at least 0.
    """

    shape: str
    ranks: int
    gbytes_per_s: float
    latency_us: float
    overhead_us: float
    node_count: int = 1
    nics: int = 0
    switched: bool = False
    inter_gbytes_per_s: float = 0.0
    inter_latency_us: float = 0.0
    matrix: tuple[float, ...] = ()
    _handle: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        handle = _core.topology(
            shape=self.shape,
            ranks=self.ranks,
            bandwidth=self.gbytes_per_s * _GIGA,
            latency=self.latency_us * _MICRO,
            overhead=self.overhead_us * _MICRO,
            nodes=self.node_count,
            nics=self.nics,
            switched=self.switched,
            inter_bandwidth=self.inter_gbytes_per_s * _GIGA,
            inter_latency=self.inter_latency_us * _MICRO,
            matrix=[value * _GIGA for value in self.matrix],
        )
        object.__setattr__(self, "_handle", handle)

    @property
    def name(self) -> str:
        """Its shape and size in words."""
        if self.shape == "nodes":
            return f"{self.node_count} nodes of {self.ranks // self.node_count}"
        return f"{self.shape} of {self.ranks}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Topology, tuple(getattr(self, f.name) for f in fields(self) if f.init)

    @classmethod
    def full_mesh(
        cls, ranks: int, gbytes_per_s: float, latency_us: float = 0.0, overhead_us: float = 0.0
    ) -> Topology:
        """One link of ``gbytes_per_s`` from each rank to each other."""
        return cls("full_mesh", ranks, gbytes_per_s, latency_us, overhead_us)

    @classmethod
    def ring(
        cls, ranks: int, gbytes_per_s: float, latency_us: float = 0.0, overhead_us: float = 0.0
    ) -> Topology:
        """One link of ``gbytes_per_s`` from each rank to the next, and one to the previous."""
        return cls("ring", ranks, gbytes_per_s, latency_us, overhead_us)

    @classmethod
    def switch(
        cls, ranks: int, gbytes_per_s: float, latency_us: float = 0.0, overhead_us: float = 0.0
    ) -> Topology:
        """Each rank has a port of ``gbytes_per_s`` out and as much in, shared by its transfers."""
        return cls("switch", ranks, gbytes_per_s, latency_us, overhead_us)

    @classmethod
    def bus(
        cls, ranks: int, gbytes_per_s: float, latency_us: float = 0.0, overhead_us: float = 0.0
    ) -> Topology:
        """All transfers share ``gbytes_per_s``, as processes of one machine share its memory."""
        return cls("bus", ranks, gbytes_per_s, latency_us, overhead_us)

    @classmethod
    def nodes(
        cls,
        nodes: int,
        ranks_per_node: int,
        intra_gbytes_per_s: float,
        inter_gbytes_per_s: float,
        *,
        intra_latency_us: float = 0.0,
        inter_latency_us: float = 0.0,
        overhead_us: float = 0.0,
        nics: int | None = None,
        switched: bool = False,
    ) -> Topology:
        """Nodes of several ranks each; the ranks of a node are numbered one after another.

        Args:
            intra_gbytes_per_s: inside a node, of each link between two ranks; ``switched``: of each
                rank's port to the node's switch, out and in.
            inter_gbytes_per_s: of each network card, out and in.
            nics: network cards a node, each shared by as many neighbouring ranks; default: one for
                each rank.
        """
        if ranks_per_node < 1:
            raise ValueError(f"ranks_per_node is {ranks_per_node}: must be at least 1")
        if nics is not None and nics < 1:
            raise ValueError(f"nics is {nics}: must be at least 1, or None")
        return cls(
            "nodes",
            nodes * ranks_per_node,
            intra_gbytes_per_s,
            intra_latency_us,
            overhead_us,
            nodes,
            nics or 0,
            switched,
            inter_gbytes_per_s,
            inter_latency_us,
        )

    @classmethod
    def from_matrix(
        cls,
        gbytes_per_s: Sequence[Sequence[float]],
        latency_us: float = 0.0,
        overhead_us: float = 0.0,
    ) -> Topology:
        """A link of ``gbytes_per_s[source][target]`` for each pair where that is not 0.

        Raises:
            ValueError: the matrix is not square, has an element that is negative or not finite, or
                its links do not lead from every rank to every other.
        """
        rows = [[float(value) for value in row] for row in gbytes_per_s]
        for index, row in enumerate(rows):
            if len(row) != len(rows):
                raise ValueError(
                    f"gbytes_per_s has {len(rows)} rows, and row {index} has {len(row)} elements: "
                    "must be square"
                )
        values = tuple(value for row in rows for value in row)
        return cls("matrix", len(rows), 0.0, latency_us, overhead_us, matrix=values)
