"""Losses by language and at switched positions: against a loop over positions, and equal at every layout."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.reports.records import read_records
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from megatron_prealign.training.metrics import scalars
from tests.workspace import MakeValues

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "dp2": (2, {}),
    "tp2-pp2-sequence-parallel": (
        4,
        {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "sequence_parallel": True},
    ),
}
# What depends on time, what is no number, and retrieval, which has tests of its own.
OTHERS = {"tokens_per_second", "step_seconds", "pause_seconds", "data_wait_share", "teraflops_per_rank"}
OTHERS |= {"memory_bytes", "seconds", "seconds_left", "kind", "stage", "retrieval"}


def _train(values: Any) -> None:
    make_trainer(values).train()


def _records(run: Path) -> list[dict[str, Any]]:
    problems: list[str] = []
    records = read_records(run / "metrics.jsonl", problems)
    assert not problems
    return [dict(scalars({name: record[name] for name in record.keys() - OTHERS})) for record in records]


@pytest.fixture(scope="module")
def make_blended(make_values: MakeValues, two_languages: list[dict[str, Any]]) -> MakeValues:
    def make(run: Path, parallel: dict[str, Any]) -> dict[str, dict[str, Any]]:
        training = {"train_steps": 2, "eval_interval": 2, "eval_steps": 2}
        return make_values(
            "pretrain",
            run,
            data={"blend": two_languages},
            parallel=parallel,
            training=training,
            logging={"log_interval": 1},
        )

    return make


@pytest.fixture(scope="module")
def single(make_blended: MakeValues, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    run = tmp_path_factory.mktemp("single") / "run"
    run_distributed(_train, 1, make_blended(run, {}))
    return _records(run)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_records_are_equal_at_every_layout(
    layout: str, single: list[dict[str, Any]], make_blended: MakeValues, tmp_path: Path
) -> None:
    world_size, parallel = LAYOUTS[layout]
    run_distributed(_train, world_size, make_blended(tmp_path / "run", parallel))
    train, valid = single[0], single[-1]
    losses = {"lm_loss", "language_loss/en", "language_loss/de", "switched_loss", "ordinary_loss"}
    assert {*losses, "parameter_norm", "gradient_norm"} <= train.keys()
    losses = {"loss/en", "loss/de", "switched_loss/en", "ordinary_loss/en"}
    assert {name for name in valid if "loss" in name} == losses
    for expected, found in zip(single, _records(tmp_path / "run"), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def _naive(values: Any) -> tuple[dict[str, Any], dict[str, Any], float, float]:
    """Return what two steps' worth of batches report, and a loop over their positions; the norms likewise."""
    from megatron.core.utils import unwrap_model

    from megatron_prealign.training.norms import parameter_norm

    trainer = make_trainer(values)
    languages = trainer.config.data.languages
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for _ in range(2):
        (one_pass,) = trainer.stage.next_passes(trainer.state)
        with torch.no_grad():
            one_pass.run(trainer.chunks, forward_only=True)
            for batch in one_pass.microbatches:
                losses = trainer.chunks[0](batch["tokens"], batch["position_ids"], None, labels=batch["labels"])
                _add(sums, losses, batch, languages)
    whole = sum(p.double().square().sum() for p in unwrap_model(trainer.chunks)[0].parameters())
    expected = {name: total / count for name, (total, count) in sums.items()}
    return trainer.stage.take_metrics(), expected, parameter_norm(trainer.chunks), float(whole**0.5)


def _add(sums: dict[str, list[float]], losses: Any, batch: Any, languages: Any) -> None:
    for loss, counts, group in zip(
        losses.flatten().tolist(), batch["loss_mask"].flatten(), batch["loss_group"].flatten().tolist(), strict=True
    ):
        for name in ("all", languages[group // 2], ("ordinary", "switched")[group % 2]):
            if counts:
                sums[name][0] += loss
                sums[name][1] += 1


def test_sums_equal_a_loop_over_positions(make_blended: MakeValues, tmp_path: Path) -> None:
    reported, expected, norm, whole = run_distributed(_naive, 1, make_blended(tmp_path / "run", {}))[0]
    assert reported["lm_loss"] == pytest.approx(expected["all"], rel=1e-6)
    assert reported["language_loss"] == pytest.approx({name: expected[name] for name in ("en", "de")}, rel=1e-6)
    assert reported["switched_loss"] == pytest.approx(expected["switched"], rel=1e-6)
    assert reported["ordinary_loss"] == pytest.approx(expected["ordinary"], rel=1e-6)
    assert norm == pytest.approx(whole, rel=1e-6)
