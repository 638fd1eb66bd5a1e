"""Fitting latency, overhead and bandwidth to measured exchanges."""

from __future__ import annotations

import pytest

from warploom import collectives as co

SIZES = (1e4, 1e5, 1e6, 1e7)


def samples(
    true: co.Topology,
    guess: co.Topology,
    kinds: tuple[str, ...],
    errors: tuple[float, ...] = (1.0,),
) -> list[co.Sample]:
    """What a machine that follows the model exactly (times an error) would show."""
    found = []
    for kind in kinds:
        s = co.schedule(guess, kind)
        for size in SIZES:
            error = errors[len(found) % len(errors)]
            found.append(co.Sample(s, co.Pass(size), s.cost(size, topology=true).seconds * error))
    return found


def test_the_ring_alone_finds_latency_and_bandwidth() -> None:
    true = co.Topology.full_mesh(8, 3.5, latency_us=42)
    fitted = co.calibrate(co.Topology.full_mesh(8, 1), samples(true, true, ("ring",)))
    assert fitted.gbytes_per_s == pytest.approx(3.5)
    assert fitted.latency_us == pytest.approx(42)
    assert fitted.overhead_us == 0


def test_two_kinds_find_the_overhead_of_a_message_too() -> None:
    true = co.Topology.full_mesh(8, 3.5, latency_us=42, overhead_us=7)
    fitted = co.calibrate(co.Topology.full_mesh(8, 1), samples(true, true, ("ring", "direct")))
    assert fitted.gbytes_per_s == pytest.approx(3.5)
    assert fitted.latency_us == pytest.approx(42)
    assert fitted.overhead_us == pytest.approx(7)


def test_a_fit_to_noisy_rings_predicts_the_others() -> None:
    true = co.Topology.full_mesh(8, 3.5, latency_us=42)
    noisy = samples(true, true, ("ring",), (1.03, 0.98, 1.01, 0.97))
    fitted = co.calibrate(co.Topology.full_mesh(8, 1), noisy)
    for kind in ("direct", "hamilton", "bidirectional"):
        s = co.schedule(fitted, kind)
        for size in SIZES:
            expected = s.cost(size, topology=true).seconds
            assert s.cost(size).seconds == pytest.approx(expected, rel=0.05)


def test_every_bandwidth_is_scaled_alike() -> None:
    true = co.Topology.nodes(2, 4, 200, 25, intra_latency_us=9, inter_latency_us=9)
    guess = co.Topology.nodes(2, 4, 400, 50)
    fitted = co.calibrate(guess, samples(true, guess, ("ring",)))
    assert (fitted.gbytes_per_s, fitted.inter_gbytes_per_s) == pytest.approx((200, 25))
    matrix = co.Topology.from_matrix([[0, 2, 4], [2, 0, 8], [4, 2, 0]])
    half = co.Topology.from_matrix([[0, 1, 2], [1, 0, 4], [2, 1, 0]])
    assert co.calibrate(matrix, samples(half, matrix, ("ring",))).matrix == pytest.approx(
        half.matrix
    )


def test_nothing_becomes_negative() -> None:
    """Times that grow more than in proportion would ask for a negative latency."""
    mesh = co.Topology.full_mesh(4, 1)
    s = co.schedule(mesh, "ring")
    bent = [co.Sample(s, co.Pass(size), size**1.1 * 1e-9) for size in SIZES]
    fitted = co.calibrate(mesh, bent)
    assert fitted.latency_us == 0
    assert fitted.gbytes_per_s > 0


def test_wrong_samples() -> None:
    mesh = co.Topology.full_mesh(4, 1)
    s = co.schedule(mesh, "ring")
    with pytest.raises(ValueError, match="samples is empty"):
        co.calibrate(mesh, [])
    with pytest.raises(ValueError, match=r"samples\[0\] took 0.0 s"):
        co.calibrate(mesh, [co.Sample(s, co.Pass(1e6), 0.0)])
    with pytest.raises(ValueError, match="do not grow with the bytes"):
        co.calibrate(mesh, [co.Sample(s, co.Pass(0.0), 1.0)])
    with pytest.raises(ValueError, match="4 ranks: the topology has 5"):
        co.calibrate(co.Topology.full_mesh(5, 1), [co.Sample(s, co.Pass(1e6), 1.0)])
