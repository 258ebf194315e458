"""Values that are of the right type and mean nothing: YAML's own, and numbers beyond all use."""

from pathlib import Path

import pytest

from megatron_prealign.config import config_from_dict, find_problems, load_config
from megatron_prealign.errors import ConfigError

ENGLISH = {"prefix": "en_text_document"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training: {seed: 2024-99-99}", ":1: not valid YAML: no such value (month must be in 1..12"),
        ("training:\n  run_path: 2024-01-01 99:99:99", ":2: not valid YAML: no such value (hour must be in 0..23"),
        ("training: {train_steps: 0x_}", ":1: not valid YAML: no such value (invalid literal for int()"),
        ("training:\n  seed: !!int ''", ":2: not valid YAML: no such value (string index out of range)"),
        ("training:\n  seed: !!int abc", ":2: not valid YAML: no such value (invalid literal for int()"),
        ("data: {codeswitch: !!bool foo}", ":1: not valid YAML: no such value ('foo')"),
    ],
)
def test_yaml_that_has_no_value_is_named_with_its_line(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(["--config", str(tmp_path / "config.yaml")])
    assert f"{tmp_path / 'config.yaml'}{expected}" in str(caught.value)


@pytest.mark.parametrize(
    ("section", "name", "value", "expected"),
    [
        (
            "data",
            "blend",
            [{**ENGLISH, "weight": 1e308}],
            "blend[0].weight must be in [1e-09, 1e+09], got 1e+308",
        ),
        (
            "data",
            "blend",
            [{**ENGLISH, "tokens": 10**40}],
            "blend[0].tokens must be in [1, 4.61169e+18], got 1000",
        ),
        ("data", "split", "1e308,1,1", "--data.split '1e308,1,1' must be three shares"),
        ("data", "temperature", 1e-320, "data.temperature"),
        ("optimizer", "lr", 1e300, "optimizer.lr"),
        ("optimizer", "adam_eps", 1e-320, "optimizer.adam_eps"),
        ("parallel", "distributed_timeout_minutes", 1e26, "parallel.distributed_timeout_minutes"),
        ("training", "train_steps", 1 << 53, "training.train_steps"),
    ],
)
def test_numbers_beyond_all_use_are_refused(section: str, name: str, value: object, expected: str) -> None:
    problems = find_problems(config_from_dict({section: {name: value}}))
    assert any(expected in problem for problem in problems), problems
