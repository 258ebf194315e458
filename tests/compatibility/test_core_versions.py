"""Checkpoints of each supported megatron-core continue in the other; each has an environment of its own.

`make test CORE=0.19` finds the environment of `make test` beside it, and the other way round. Where the other one does
not exist, these tests are skipped.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import megatron.core
import pytest
import torch

from megatron_prealign.checkpoint.folder import newest_checkpoint
from megatron_prealign.checkpoint.tensors import CheckpointTensors
from tests.compatibility.other_core import train
from tests.evaluation.folders import make_folder
from tests.workspace import MakeValues
from tools.convert_checkpoint import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
OTHERS = {"0.16": ".venv-core-0.19", "0.19": ".venv"}
HERE = megatron.core.__version__.rpartition(".")[0]
RUNS = [(stage, sharded) for stage in ("align_init", "pretrain") for sharded in (False, True)]
WORLD_SIZE = 2


@pytest.fixture(scope="module")
def other_python() -> Path:
    """The interpreter of the environment with the other version."""
    python = ROOT / OTHERS[HERE] / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"needs the environment {python.parents[1].name}: make test CORE=0.19 and make test make one each")
    return python


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("versions")


def configurations(make_values: MakeValues, folder: Path, train_steps: int) -> Iterator[dict[str, Any]]:
    """Yield the configurations of `RUNS` below a folder."""
    for stage, sharded in RUNS:
        yield make_values(
            stage,
            folder / f"{stage}-{sharded}",
            parallel={"use_distributed_optimizer": sharded},
            training={"train_steps": train_steps},
            schedule={"lr_decay_steps": 4},
        )


@pytest.fixture(scope="module")
def from_there(other_python: Path, scratch: Path, make_values: MakeValues) -> dict[str, Any]:
    """What the other version did: it began runs, continued those begun here, and wrote a checkpoint of Megatron-LM."""
    begun_here = train([*configurations(make_values, scratch / "here", 2)], WORLD_SIZE)
    there = [*configurations(make_values, scratch / "there", 2), *configurations(make_values, scratch / "here", 4)]
    request = {"configurations": there, "world_size": WORLD_SIZE, "megatron_lm": str(scratch / "megatron")}
    command = [str(other_python), "-m", "tests.compatibility.other_core"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, input=json.dumps(request), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer["version"].rpartition(".")[0] != HERE
    begun_there, ended_there = answer["records"][: len(RUNS)], answer["records"][len(RUNS) :]
    return {"begun": begun_there, "whole": [a + b for a, b in zip(_plain(begun_here), ended_there, strict=True)]}


def _plain(records: Any) -> Any:
    return json.loads(json.dumps(records))


def test_a_run_continues_in_either_version_bit_for_bit(
    from_there: dict[str, Any], scratch: Path, make_values: MakeValues
) -> None:
    runs = [*configurations(make_values, scratch / "whole", 4), *configurations(make_values, scratch / "there", 4)]
    records = _plain(train(runs, WORLD_SIZE))
    for index, (stage, sharded) in enumerate(RUNS):
        whole, ended_here = records[index], records[len(RUNS) + index]
        assert len(whole) == 4
        assert from_there["whole"][index] == whole, (stage, sharded, "begun here, continued there")
        assert from_there["begun"][index] + ended_here == whole, (stage, sharded, "begun there, continued here")
        folders = [scratch / name / f"{stage}-{sharded}" for name in ("whole", "here", "there")]
        expected, *others = [CheckpointTensors(newest_checkpoint(folder)) for folder in folders]
        for other in others:
            assert {*other} == {*expected}
            assert all(torch.equal(other[name], expected[name]) for name in expected), (other.path, stage, sharded)


def test_a_checkpoint_of_megatron_lm_is_imported_whatever_version_wrote_it(
    from_there: dict[str, Any], scratch: Path
) -> None:
    del from_there  # it wrote the checkpoint
    source = scratch / "megatron"
    assert (source / "iter_0000005" / "common.pt").exists() == (HERE == "0.19")
    tokenizer = make_folder(scratch / "llama") / "tokenizer.json"
    options = ("--checkpoint", str(source), "--output", str(scratch / "out"), "--tokenizer", str(tokenizer))
    assert main(["from-megatron-lm", *options]) == 0
    # The import itself has compared all weights.
    assert len(CheckpointTensors(scratch / "out")) == len(CheckpointTensors(source / "iter_0000005"))
