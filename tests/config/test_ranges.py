"""Numbers of the configuration and their ranges."""

import typing

import pytest

from megatron_prealign.config import Config, config_from_dict, find_problems
from megatron_prealign.config.validation import number_ranges

RANGES = number_ranges()


def test_every_number_has_a_range() -> None:
    numbers = {
        f"{section}.{name}"
        for section, section_type in typing.get_type_hints(Config).items()
        for name, hint in typing.get_type_hints(section_type).items()
        if hint in (int, float, int | None, float | None)
    }
    assert numbers == set(RANGES)


def problems_with(name: str, value: float) -> list[str]:
    """Find the problems of the defaults with one value in their place."""
    section, field = name.split(".")
    return find_problems(config_from_dict({section: {field: value}}), world_size=1)


@pytest.mark.parametrize("name", RANGES)
def test_ranges(name: str) -> None:
    """-1 is outside every range; 0 is inside those that say so and outside the others."""
    problems = problems_with(name, -1)
    assert f"--{name} must be {RANGES[name]}, got -1" in [problem.replace("-1.0", "-1") for problem in problems]
    zero_is_refused = [problem for problem in problems_with(name, 0) if "must be" in problem]
    assert bool(zero_is_refused) == (not str(RANGES[name]).startswith(("at least 0", "in [0, ")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.rotary_percent", 1.01),
        ("model.hidden_dropout", 1.0),
        ("model.attention_dropout", 1.0),
        ("optimizer.adam_beta1", 1.0),
        ("optimizer.adam_beta2", 1.0),
        ("training.seed", 2**32),
        ("alignment.word_batch_size", 1),
        ("checkpoint.keep_last", 1),
        ("parallel.virtual_pipeline_model_parallel_size", 1),
    ],
)
def test_range_ends(name: str, value: float) -> None:
    problems = problems_with(name, value)
    assert f"--{name} must be {RANGES[name]}, got {value}" in problems
