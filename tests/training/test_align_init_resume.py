"""Runs with alignment go on bit for bit from any of their steps, also after SIGKILL and between two alignments.

Broken once to see these fail: word microbatches counted from zero again, the optimizer's moments not loaded, the
consumed sequences not restored.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_prealign.checkpoint import folder
from megatron_prealign.testing import run_distributed
from tests.workspace import MakeValues

NUM_STEPS = 6
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "single": (1, {}),
    "dp2-distributed-optimizer": (2, {"use_distributed_optimizer": True}),
    "tp2-sequence-parallel": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
}
COMPARED = ("tokens", "word_tokens", "lm_loss", "alignment_loss", "tap_loss", "learning_rate", "gradient_norm")
COMPARED += ("sentence_tokens", "sentence_alignment_loss", "sentence_tap_loss")


@pytest.fixture
def values(make_values: MakeValues, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Six steps of stage 1 that pass the end of the lexicon, each recorded and saved."""
    return _make(make_values, "align_init", tmp_path)


@pytest.fixture
def maintained(make_values: MakeValues, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Six steps of stage 2, of which the first and the fourth have words."""
    return _make(make_values, "pretrain", tmp_path, maintain_interval=3, maintain_decay="linear")


@pytest.fixture
def sentences(make_values: MakeValues, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Six steps of stage 1 with words and sentences, which pass the end of both."""
    fields = {"sentence_batch_size": 5, "num_sentence_microbatches": 2}
    return _make(make_values, "align_init", tmp_path / "sentences", **fields)


def _make(make_values: MakeValues, stage: str, folder: Path, **alignment: Any) -> dict[str, dict[str, Any]]:
    return make_values(
        stage,
        folder / stage,
        alignment={"word_batch_size": 6, "num_hard_negatives": 1, **alignment},
        checkpoint={"save_interval": 1, "keep_last": NUM_STEPS},
        logging={"log_interval": 1, "tensorboard": False},
        schedule={"lr_warmup_steps": 2},
    )


def _train_all(runs: list[Any]) -> None:
    from megatron_prealign.testing.trainers import make_trainer

    for run in runs:
        make_trainer(run).train()


def _at(values: dict[str, dict[str, Any]], run_path: Path) -> dict[str, dict[str, Any]]:
    return {**values, "training": {**values["training"], "run_path": str(run_path)}}


def _records(run_path: Path) -> dict[int, dict[str, Any]]:
    """Return what is compared of each step's last record."""
    lines = (run_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {record["step"]: {name: record.get(name) for name in COMPARED} for record in records}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_continues_bit_for_bit_from_any_step(
    layout: str,
    values: dict[str, dict[str, Any]],
    maintained: dict[str, dict[str, Any]],
    sentences: dict[str, dict[str, Any]],
) -> None:
    world_size, parallel = LAYOUTS[layout]
    values["parallel"] = maintained["parallel"] = sentences["parallel"] = parallel
    run_distributed(_train_all, world_size, [values, maintained, sentences])
    runs: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for stage in (values, maintained, sentences):
        whole = stage["training"]["run_path"]
        for step in range(1, NUM_STEPS):
            run = Path(f"{whole}-{step}")
            shutil.copytree(folder.step_path(whole, step), folder.step_path(run, step))
            runs[whole, step] = _at(stage, run)
    run_distributed(_train_all, world_size, [*runs.values()])
    for (whole, step), stage in runs.items():
        expected, found = _records(Path(whole)), _records(Path(stage["training"]["run_path"]))
        assert list(expected) == list(range(1, NUM_STEPS + 1))
        assert list(found) == list(range(step + 1, NUM_STEPS + 1))
        assert found == {later: expected[later] for later in found}, (whole, step)
    records = _records(Path(sentences["training"]["run_path"]))
    assert all(record["sentence_alignment_loss"] > 0 for record in records.values())
    tokens = [record["tokens"] - record["word_tokens"] - record["sentence_tokens"] for record in records.values()]
    assert tokens == [step * 4 * 32 for step in records]
    records = _records(Path(maintained["training"]["run_path"]))
    assert [step for step, record in records.items() if record["alignment_loss"] is not None] == [1, 4]
    for step, record in records.items():
        assert record["tokens"] == step * 4 * 32 + record["word_tokens"]
        assert (record["word_tokens"] == records[1]["word_tokens"]) == (step < 4)


@pytest.mark.slow
def test_killed_at_any_instant_it_ends_as_if_undisturbed(values: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    run_distributed(_train_all, 1, [values])
    run = tmp_path / "killed"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(_at(values, run)))
    command = [sys.executable, "pretrain_prealign.py", "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Killed as soon as these steps are recorded: while they are being saved, or in the step after.
    for step in (2, 5):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and not _has_record(run, step):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "ended by itself"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert _records(run) == _records(tmp_path / "align_init")
    newest = folder.newest_checkpoint(run)
    assert newest is not None
    assert folder.read_state(newest) == folder.read_state(folder.step_path(tmp_path / "align_init", NUM_STEPS))
    assert not list((run / "checkpoints").glob("*.tmp"))


def _has_record(run: Path, step: int) -> bool:
    path = run / "metrics.jsonl"
    return path.exists() and f'"step":{step},' in path.read_text()
