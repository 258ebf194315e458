"""What happens around the steps: validation, records, schedules, checks."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.config import config_from_dict
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer, validate
from megatron_prealign.training.metrics import progress_line
from megatron_prealign.training.optimizer import build_schedule
from tests.workspace import MakeValues

EVALUATION = {"eval_interval": 2, "eval_steps": 100, "train_steps": 4}


def _schedule_rates(**schedule: Any) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    values = {
        "optimizer": {"lr": 1.0, "min_lr": 0.1},
        "training": {"train_steps": 10},
        "schedule": {"lr_warmup_steps": 2, **schedule},
    }
    built = build_schedule(optimizer, config_from_dict(values))  # type: ignore[arg-type]
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        built.step(1)
    return rates


def test_schedules_warm_up_and_end_at_the_minimum() -> None:
    for style in ("cosine", "linear", "wsd"):
        rates = _schedule_rates(lr_decay_style=style)
        assert rates[:3] == pytest.approx([0.0, 0.5, 1.0]), style
        assert rates[10] == pytest.approx(0.1), style
        assert all(later <= earlier for earlier, later in pairwise(rates[2:])), style
    assert _schedule_rates(lr_decay_style="wsd", lr_wsd_decay_steps=4)[6:] == pytest.approx(
        [1.0, 0.775, 0.55, 0.325, 0.1]
    )
    assert _schedule_rates(lr_decay_style="wsd", lr_wsd_decay_steps=4, lr_wsd_decay_style="minus_sqrt")[6:] == (
        pytest.approx([0.1 + 0.9 * (1 - math.sqrt(done / 4)) for done in range(5)])
    )
    assert _schedule_rates(lr_decay_style="constant")[10] == 1.0


def test_validation_does_not_depend_on_the_layout(make_values: MakeValues, tmp_path: Path) -> None:
    # 100 global batches are more than the split holds: the last is padded, and unevenly so over ranks.
    losses = [
        run_distributed(validate, size, make_values("pretrain", tmp_path / str(size), training=EVALUATION))[0]
        for size in (1, 4)
    ]
    assert losses[0].keys() == {"en"}
    assert losses[1]["en"] == pytest.approx(losses[0]["en"], rel=1e-6)


def _train(values: Any) -> None:
    make_trainer(values).train()


def test_a_run_leaves_its_records(make_values: MakeValues, tmp_path: Path) -> None:
    run = tmp_path / "run"
    logging = {"log_interval": 2, "tensorboard": True}
    run_distributed(_train, 1, make_values("align_init", run, training=EVALUATION, logging=logging))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in records] == [
        ("train", 2),
        ("valid", 2),
        ("train", 4),
        ("valid", 4),
    ]
    last = records[2]
    assert last["tokens"] == 4 * 4 * 32 + last["word_tokens"]
    assert last["word_tokens"] > 0
    assert last["alignment_loss"] == pytest.approx(sum(last["tap_loss"].values()) / 5)
    assert list(last["tap_loss"]) == ["embedding", "layer_1", "layer_2", "layer_3", "layer_4"]  # tied
    assert "lm " in progress_line(last)
    assert progress_line(last).endswith("left 0m00s")
    assert list((run / "tensorboard").iterdir())
    assert (run / "checkpoints" / "step_0000004" / "tokenizer" / "tokenizer_config.json").is_file()
    assert "stage: align_init" in (run / "config.yaml").read_text()
