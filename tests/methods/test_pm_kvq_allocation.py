"""Widths under a budget: exact, whole bytes, said when it cannot be."""

import itertools
import random
from fractions import Fraction

import pytest

from warploom.methods.pm_kvq.allocation import Halving, allocate
from warploom.methods.pm_kvq.layout import WIDTHS, Layout
from warploom.methods.pm_kvq.sensitivity import Profile

LAYOUT = Layout(layers=3, kv_heads=2, head_dim=32, page_size=16, sink=1, window=32)
COST = (
    ((0.0, 1.0, 11.0, 90.0), (0.0, 0.5, 4.0, 50.0)),
    ((0.0, 7.0, 30.0, 31.0), (0.0, 0.1, 0.3, 1.0)),
    ((0.0, 2.0, 9.0, 80.0), (0.0, 3.0, 13.0, 200.0)),
)
PROFILE = Profile(COST, LAYOUT)
TOKENS = 200


def cost(layers):
    return sum(
        COST[n][kind][WIDTHS.index(w)]
        for n, pair in enumerate(layers)
        for kind, w in enumerate(pair)
    )


def test_the_least_cost_of_all_that_fit():
    pairs = list(itertools.product(WIDTHS, repeat=2))
    everything = [
        (LAYOUT.nbytes(TOKENS, layers), cost(layers))
        for layers in itertools.product(pairs, repeat=3)
    ]
    least, most = min(everything)[0], max(everything)[0]
    for budget in range(least, most + 1, (most - least) // 37):
        found = allocate(PROFILE, budget, TOKENS)
        best = min(c for size, c in everything if size <= budget)
        assert found.nbytes <= budget
        assert cost(found.layers) == pytest.approx(best)
    assert allocate(PROFILE, most, TOKENS).layers == ((16, 16),) * 3


def best_of_all(costs, room):
    """Choice by choice: least cost as a fraction, then most bits, then the widest first."""
    bits = [w - WIDTHS[-1] for w in WIDTHS]
    return min(
        (
            sum(Fraction(row[n]) for row, n in zip(costs, picked, strict=True)),
            -sum(bits[n] for n in picked),
            picked,
        )
        for picked in itertools.product(range(len(WIDTHS)), repeat=len(costs))
        if sum(bits[n] for n in picked) <= room
    )[-1]


def drawn_costs(rng, kind):
    """Four rows of costs: of any size, tiny beside the dearest, or few values, so that many tie."""
    if kind == "wide":
        return [[0.0, *(10 ** rng.uniform(-9, 9) for _ in range(3))] for _ in range(4)]
    if kind == "hidden":  # below the rounding of doubles beside the dearest
        return [[0.0, *(1e-9 * rng.random() for _ in range(2)), 1e9] for _ in range(4)]
    return [[0.0, *sorted(rng.choice([0.0, 1.0, 2.0]) for _ in range(3))] for _ in range(4)]


@pytest.mark.parametrize("kind", ["wide", "hidden", "ties"])
def test_the_least_of_costs_of_any_size(kind):
    rng = random.Random(7)
    layout = Layout(layers=2, kv_heads=1, head_dim=16, page_size=16, sink=0, window=0)
    tokens = 33  # two pages that may leave 16 bits
    bit = len(layout.body(tokens)) * layout.block_bytes(8) // 8
    least = layout.uniform_nbytes(tokens, 2)
    for _ in range(25):
        costs = drawn_costs(rng, kind)
        room = rng.randrange(4 * 14 + 2)
        rows = tuple(map(tuple, costs))
        found = allocate(Profile((rows[:2], rows[2:]), layout), least + room * bit, tokens)
        expected = best_of_all(costs, room)
        assert sum(found.layers, ()) == tuple(WIDTHS[n] for n in expected)


def test_small_costs_count_beside_large_ones():
    """Every 8 bit cost is 1e-12 of the dearest, and they differ: the cheapest go to 8 bits."""
    rows = [(0.0, 1e-6 * (1 + n), 1e6, 1e6) for n in range(6)]
    profile = Profile(tuple(zip(rows[::2], rows[1::2], strict=True)), LAYOUT)
    room = LAYOUT.nbytes(TOKENS, [(8, 8), (8, 16), (16, 16)])
    assert allocate(profile, room, TOKENS).layers == ((8, 8), (8, 16), (16, 16))


def test_equal_costs_keep_the_most_bytes():
    flat = Profile(((((0.0,) * 4),) * 2,) * 3, LAYOUT)
    some = LAYOUT.nbytes(TOKENS, [(16, 16), (8, 2), (2, 2)])
    found = allocate(flat, some, TOKENS)
    assert found.nbytes == some
    assert found.layers == ((16, 16), (8, 2), (2, 2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_costs_that_are_not_finite_are_refused(bad):
    profile = Profile((COST[0], (COST[1][0], (0.0, bad, 1.0, 2.0)), COST[2]), LAYOUT)
    with pytest.raises(ValueError, match=r"layer 1's values is .* must be finite"):
        allocate(profile, 10**9, TOKENS)


def test_bytes_are_those_of_all_pages():
    """11 + 1 pages are open when position 177 comes: sink, window and the open page at 16 bits."""
    pages, kept = 12, 4  # page 0; pages 9, 10 and 11 hold the newest 32 and what is being written
    block16, block4, block2 = 16 * 32 * 2, 16 * 32 // 2, 16 * 32 // 4
    grids = 4 * (16 * 32 // 16 + 16 * 32 // 32) + 2 * 4
    head = kept * 2 * block16 + (pages - kept) * (block4 + block2) + pages * grids
    assert LAYOUT.nbytes(180, [(4, 2)]) == 2 * head
    assert LAYOUT.nbytes(192, [(4, 2)]) == 2 * head  # as much as at any position on the way
    assert LAYOUT.nbytes(193, [(4, 2)]) > 2 * head


def test_batch_multiplies_bytes():
    one = allocate(PROFILE, 300_000, TOKENS)
    three = allocate(PROFILE, 900_000, TOKENS, batch=3)
    assert three.layers == one.layers
    assert three.nbytes == 3 * one.nbytes


def test_a_budget_too_small_says_the_least():
    least = LAYOUT.uniform_nbytes(TOKENS, 2)
    with pytest.raises(ValueError, match=f"budget_bytes is {least - 1}: must be at least {least} "):
        allocate(PROFILE, least - 1, TOKENS)
    assert allocate(PROFILE, least, TOKENS).layers == ((2, 2),) * 3
    least8 = LAYOUT.uniform_nbytes(TOKENS, 8)
    with pytest.raises(ValueError, match=f"must be at least {least8} .* every width at 8"):
        allocate(PROFILE, least8 - 1, TOKENS, widths=(16, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"widths": (8, 3)}, "widths is"),
        ({"widths": ()}, "widths is"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        allocate(PROFILE, **{"budget_bytes": 10**9, "max_tokens": 9, **changes})


def test_the_way_there_halves_step_by_step_and_cheapest_first():
    found = allocate(PROFILE, LAYOUT.uniform_nbytes(TOKENS, 2), TOKENS)
    widths = [[16, 16] for _ in range(3)]
    prices = []
    for layer, kind, to in found.order:
        before = widths[layer][kind]
        assert to == before // 2
        cell = COST[layer][kind]
        prices.append((cell[WIDTHS.index(to)] - cell[WIDTHS.index(before)]) / (before - to))
        widths[layer][kind] = to
    assert tuple(map(tuple, widths)) == found.layers
    assert found.order[0] == Halving(1, 1, 8)  # 0.1 for eight bits
    running = [max(p for p in prices[: n + 1]) for n in range(len(prices))]
    # A step is late only because the one before it on the same codes was dear.
    dear = [p for p, most in zip(prices, running, strict=True) if p < most]
    assert dear == [0.5]  # layer 1's keys from 4 to 2, after 5.75 a bit from 8 to 4


def test_layouts_of_configurations():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=5
    )
    layout = Layout.of(config, window=7)
    assert (layout.sizes, layout.window) == ((5, 2, 16), 7)
    with pytest.raises(NotImplementedError, match=r"layer 0 of .* is sliding_attention"):
        Layout.of(transformers.Gemma2Config(num_hidden_layers=2))
    with pytest.raises(ValueError, match="head_dim is 40: must be a positive multiple of 16"):
        Layout(layers=1, kv_heads=1, head_dim=40)
    assert Layout(layers=1, kv_heads=1, head_dim=192).group == 96


def test_pages_that_may_leave_16_bits():
    assert LAYOUT.body(47) == range(1, 1)
    assert LAYOUT.body(64) == range(1, 2)  # 32 positions follow page 1
    assert LAYOUT.body(63) == range(1, 1)
    assert Layout(1, 1, 16, page_size=16, sink=0, window=0).body(40) == range(2)
