"""Paired statistics against tables of Student's t and numbers worked out by hand."""

import math

import pytest

from examples.paper.experiments.verdicts import compare, t_probability, t_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(quantile, abs=6e-4)
    assert t_probability(quantile, freedom) == pytest.approx(0.95, abs=1e-4)
    assert t_probability(-quantile, freedom) == pytest.approx(0.95, abs=1e-4)
    assert t_probability(0.0, freedom) == 0.0


def test_a_difference_by_hand() -> None:
    # Differences 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1, standard error 0.1 / sqrt 3, t = 3.4641.
    effect = compare([0.6, 0.6, 0.6], [0.5, 0.4, 0.3], is_ratio=False)
    assert effect.mean == pytest.approx(0.2)
    assert effect.low == pytest.approx(0.2 - 4.3027 * 0.1 / math.sqrt(3), abs=1e-4)
    assert effect.high == pytest.approx(0.2 + 4.3027 * 0.1 / math.sqrt(3), abs=1e-4)
    # With 2 degrees of freedom p = 1 - t / sqrt(2 + t^2).
    assert effect.p == pytest.approx(1 - 3.4641 / math.sqrt(14), abs=1e-4)
    assert (effect.num_better, effect.num_seeds, effect.is_better) == (3, 3, None)
    assert effect.text() == "+0.200 [-0.048, +0.448]"


def test_a_ratio_by_hand() -> None:
    # Ratios 1/2, 1/2, 1/4: logarithms -1, -1, -2 in bits, mean -4/3, standard error 1/3, reach 4.3027 / 3.
    effect = compare([50, 20, 10], [100, 40, 40], is_ratio=True)
    assert effect.mean == pytest.approx(80 / 180)
    assert effect.low == pytest.approx(2 ** (-4 / 3 - 4.3027 / 3), abs=1e-4)
    assert effect.high == pytest.approx(2 ** (-4 / 3 + 4.3027 / 3), abs=1e-4)
    assert effect.num_better == 3


def test_signs_of_effects() -> None:
    lower = compare([50.0, 51.0, 49.0], [100.0, 101.0, 99.0], is_ratio=True)
    assert lower.is_better is True
    assert compare([100.0, 101.0, 99.0], [50.0, 51.0, 49.0], is_ratio=True).is_better is False
    assert compare([0.9, 0.91], [0.1, 0.12], is_ratio=False).is_better is True
    assert compare([0.1, 0.12], [0.9, 0.91], is_ratio=False).is_better is False


def test_one_seed_has_no_interval_and_equal_ones_no_doubt() -> None:
    one = compare([50.0], [100.0], is_ratio=True)
    assert (one.mean, one.low, one.p, one.is_better, one.text()) == (0.5, None, None, None, "× 0.50")
    assert compare([1.0, 2.0], [1.0, 2.0], is_ratio=False).p == 1.0
    assert compare([2.0, 3.0], [1.0, 2.0], is_ratio=False).p == 0.0
