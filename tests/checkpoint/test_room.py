"""The estimate of a checkpoint's size is that of the checkpoint, and a disk without room is refused."""

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from rich.filesize import decimal

from megatron_prealign.checkpoint import folder
from megatron_prealign.checkpoint.folder import checkpoint_bytes, room_problems
from megatron_prealign.config import config_from_dict, load_resolved
from megatron_prealign.errors import CheckpointError
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from tests.workspace import MakeValues

# Large enough for the tensors to outweigh the files around them.
MODEL = {"hidden_size": 256, "ffn_hidden_size": 1024, "num_layers": 4}


def _save(configurations: list[Any]) -> None:
    for values in configurations:
        trainer = make_trainer(values)
        trainer.train_step()
        trainer.save()


def test_the_estimate_is_what_a_checkpoint_takes(make_values: MakeValues, tmp_path: Path) -> None:
    variants = [(precision, sharded, "adamw") for precision in ("fp32", "bf16") for sharded in (False, True)]
    variants.append(("fp32", False, "muon"))
    configurations = [
        make_values(
            "pretrain",
            tmp_path / f"{precision}-{sharded}-{name}",
            model=MODEL,
            parallel={"use_distributed_optimizer": sharded},
            training={"precision": precision},
            optimizer={"name": name},
        )
        for precision, sharded, name in variants
    ]
    run_distributed(_save, 2, configurations)
    for values in configurations:
        run = Path(values["training"]["run_path"])
        checkpoint = folder.step_path(run, 1)
        actual = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
        estimate = checkpoint_bytes(load_resolved(checkpoint / folder.CONFIG))
        assert actual <= estimate <= 1.1 * actual, run.name


def _save_to_a_full_disk(values: Any) -> list[str]:
    from megatron_prealign.platform.megatron import torch_dist

    def fail(*_: Any) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    trainer = make_trainer(values)
    with mock.patch.object(torch_dist, "write_common", fail), pytest.raises(CheckpointError) as caught:
        trainer.save()
    return caught.value.problems


def test_a_failed_write_that_torch_does_not_explain_is_explained(make_values: MakeValues, tmp_path: Path) -> None:
    first, fix = run_distributed(_save_to_a_full_disk, 1, make_values("pretrain", tmp_path / "run"))[0]
    assert "step_0000000 could not be saved: RuntimeError: basic_ios::clear: iostream error: probably No space" in first
    assert " free), or an exhausted quota" in first
    assert fix.startswith("earlier checkpoints are untouched: fix the cause and repeat the command")


def test_a_disk_without_room_is_refused(
    make_values: MakeValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "below" / "run"
    values = make_values("pretrain", run, model={**MODEL, "vocab_size": 300}, checkpoint={"keep_last": 3})
    config = config_from_dict(values)
    assert room_problems(config) == []
    each = checkpoint_bytes(config)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 4 * each - 1))
    (problem,) = room_problems(config)
    assert problem.startswith(f"training.run_path {run}: {decimal(4 * each - 1)} are free, but 4 more")
    assert f"but 4 more checkpoints of about {decimal(each)} must fit" in problem
    # Those that are there already will make way.
    for step in range(1, 4):
        folder.step_path(run, step).mkdir(parents=True)
        assert room_problems(config) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, each - 1))
    assert "but 1 more checkpoints" in room_problems(config)[0]
