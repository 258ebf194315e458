"""Intervals of accuracies against published values, and where they must be plain."""

import pytest

from megatron_prealign.evaluation.kinds.knowledge import wilson_interval
from megatron_prealign.evaluation.kinds.zero_shot_transfer import bootstrap_interval


@pytest.mark.parametrize(
    ("num_right", "num_all", "expected"),
    [
        (8, 10, (0.4902, 0.9433)),
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (81, 263, (0.2553, 0.3662)),  # Newcombe (1998), table I
        (15, 148, (0.0624, 0.1605)),
    ],
)
def test_wilson_intervals_are_those_of_the_books(num_right: int, num_all: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(num_right, num_all) == pytest.approx(expected, abs=6e-5)


def test_bootstrap_intervals_draw_from_seeds_and_from_examples() -> None:
    assert bootstrap_interval([[True] * 5, [True] * 5]) == (1.0, 1.0)
    # One seed: the normal interval of a share, 1.96 sqrt(0.25 / 400) = 0.049.
    half = [index % 2 == 0 for index in range(400)]
    assert bootstrap_interval([half]) == pytest.approx((0.451, 0.549), abs=0.008)
    # Three seeds that agree are no more than one.
    assert bootstrap_interval([half] * 3) == pytest.approx((0.451, 0.549), abs=0.008)
    # Seeds that disagree on everything leave everything open, however many examples there are.
    assert bootstrap_interval([[True] * 400, [False] * 400]) == (0.0, 1.0)
