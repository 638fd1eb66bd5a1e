"""Hamiltonian cycles of every complete graph up to 64 vertices, and some beyond."""

from __future__ import annotations

import itertools
import warnings

import pytest

from warploom import collectives as co


def arcs(cycle: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(cycle, (*cycle[1:], cycle[0]), strict=True))


@pytest.mark.parametrize("ranks", [*range(2, 65), 97, 128])
def test_the_cycles_use_every_arc_once(ranks: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if ranks in (4, 6) else "error")
        cycles = co.hamiltonian_cycles(ranks)
    assert all(sorted(cycle) == list(range(ranks)) for cycle in cycles)
    used = [arc for cycle in cycles for arc in arcs(cycle)]
    assert len(set(used)) == len(used)
    assert len(cycles) == ranks - (2 if ranks in (4, 6) else 1)


@pytest.mark.parametrize("ranks", [4, 6])
def test_where_there_are_fewer_it_says_why(ranks: int) -> None:
    with pytest.warns(UserWarning, match=f"{ranks * (ranks - 1)} arcs .* Tillson 1980"):
        co.hamiltonian_cycles(ranks)
    assert "Tillson" in co.schedule(co.Topology.full_mesh(ranks, 64), "hamilton").note
    assert co.schedule(co.Topology.full_mesh(ranks + 1, 64), "hamilton").note == ""


def test_four_ranks_really_have_no_three() -> None:
    """All sets of three of the six cycles, tried out."""
    cycles = [(0, *rest) for rest in itertools.permutations((1, 2, 3))]
    for three in itertools.combinations(cycles, 3):
        assert len({arc for cycle in three for arc in arcs(cycle)}) < 12


def test_the_cycles_are_the_same_every_time() -> None:
    assert co.hamiltonian_cycles(8) == co.hamiltonian_cycles(8)
    s = co.schedule(co.Topology.full_mesh(8, 64), "hamilton")
    cycles = co.hamiltonian_cycles(8)
    for part, cycle in enumerate(cycles):
        steps = {(x.source, x.target) for r in s.rounds for x in r if x.chunk % s.parts == part}
        assert steps == set(arcs(cycle))


@pytest.mark.parametrize("ranks", [-1, 0, 1, 257])
def test_a_wrong_number_of_ranks(ranks: int) -> None:
    with pytest.raises(ValueError, match=f"ranks is {ranks}: must be 2 to 256"):
        co.hamiltonian_cycles(ranks)
