"""What a continued run says of its learning rate before the first step."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.config import config_from_dict
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from megatron_prealign.training.optimizer import learning_rate
from megatron_prealign.training.setup import describe_start, plan_run
from megatron_prealign.training.start_report import describe_rate_change
from tests.workspace import MakeValues

RATES = {"lr": 4e-4, "min_lr": 1e-5}


def _train(values: Any) -> list[float]:
    """Train, and return the learning rate that each step was taken with."""
    trainer = make_trainer(values)
    rates, take_step = [], trainer.train_step

    def step() -> float | None:
        rates.append(max(group["lr"] for group in trainer.optimizer.param_groups))
        return take_step()

    trainer.train_step = step  # type: ignore[method-assign]
    trainer.train()
    return rates


def test_more_steps_on_a_finished_run_warn_of_the_rate_that_they_begin_with(
    make_values: MakeValues, tmp_path: Path
) -> None:
    values = make_values("pretrain", tmp_path / "run", optimizer=RATES)
    run_distributed(_train, 1, values)
    values["training"]["train_steps"] = 12
    said = describe_start(plan_run(config_from_dict(values)))
    (line,) = re.findall(r"^WARNING: the learning rate .*", said, re.MULTILINE)
    assert line == (
        "WARNING: the learning rate of step 7 is 0.000205; the configuration of the checkpoint would give 1e-05. "
        "To keep that schedule: --schedule.lr_decay_steps 6; to keep that rate: --schedule.lr_decay_style constant "
        "--schedule.lr_warmup_steps 0 --optimizer.lr 1e-05"
    )
    kept = {"schedule": {"lr_decay_steps": 6}}
    constant = {"schedule": {"lr_decay_style": "constant"}, "optimizer": {**RATES, "lr": 1e-5}}
    for options in (kept, constant):
        assert "WARNING" not in describe_start(plan_run(config_from_dict({**values, **options})))
    # The numbers are those of the run itself.
    assert run_distributed(_train, 1, values)[0][0] == pytest.approx(0.000205)


@pytest.mark.parametrize("style", ["cosine", "linear", "wsd"])
def test_every_style_that_decays_rises_again(style: str) -> None:
    saved = config_from_dict(
        {"optimizer": RATES, "schedule": {"lr_decay_style": style}, "training": {"train_steps": 9}}
    )
    longer = config_from_dict(
        {"optimizer": RATES, "schedule": {"lr_decay_style": style}, "training": {"train_steps": 99}}
    )
    assert learning_rate(saved, 9) == 1e-5
    (line,) = describe_rate_change(longer, saved, 9)
    assert "would give 1e-05" in line and "To keep that schedule: --schedule.lr_decay_steps 9; " in line
    assert describe_rate_change(saved, saved, 9) == []


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"optimizer": {"lr": 8e-4}}, "--optimizer.lr 0.0004"),
        ({"optimizer": {"lr": 4e-4, "min_lr": 2e-4}}, "--optimizer.min_lr 1e-05"),
        ({"schedule": {"lr_decay_style": "constant"}}, "--schedule.lr_decay_style cosine"),
        ({"schedule": {"lr_warmup_steps": 90}}, "--schedule.lr_warmup_steps 0"),
        ({"schedule": {"lr_decay_steps": 55}}, "--schedule.lr_decay_steps 100"),
    ],
)
def test_every_cause_is_named_by_the_option_that_undoes_it(changes: Any, option: str) -> None:
    values: dict[str, dict[str, Any]] = {"optimizer": RATES, "training": {"train_steps": 100}}
    changed = {name: {**values.get(name, {}), **changes.get(name, {})} for name in (*values, "schedule")}
    (line,) = describe_rate_change(config_from_dict(changed), config_from_dict(values), 50)
    assert f"To keep that schedule: {option}; to keep" in line


def test_a_change_that_hardly_moves_the_rate_is_not_reported() -> None:
    saved = config_from_dict({"optimizer": RATES, "training": {"train_steps": 1000}})
    longer = config_from_dict({"optimizer": RATES, "training": {"train_steps": 1010}})
    assert describe_rate_change(longer, saved, 100) == []


def test_a_run_whose_checkpoints_are_gone_is_not_started_over_silently(make_values: MakeValues, tmp_path: Path) -> None:
    values = make_values("pretrain", tmp_path / "run")
    run_distributed(_train, 1, values)
    assert "no checkpoint" not in describe_start(plan_run(config_from_dict(values)))
    shutil.rmtree(tmp_path / "run/checkpoints")
    said = describe_start(plan_run(config_from_dict(values)))
    assert re.search(
        r"^WARNING: \S+/run/metrics.jsonl has records, but \S+/run has no checkpoint: .*", said, re.MULTILINE
    )
    assert "Starting from fresh weights." in said
