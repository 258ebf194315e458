"""SIGKILL of any rank at any instant, saves included: the run goes on and ends exactly as if undisturbed.

PREALIGN_FAULT_RUNS says how many runs are killed.
"""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_prealign.checkpoint import folder
from tests.faults.conftest import LAYOUTS, STAGES, MakeRun, Undisturbed
from tests.faults.runs import WORLD_SIZE, Run, Values, read_records

NUM_RUNS = int(os.environ.get("PREALIGN_FAULT_RUNS", "3"))


def _saving(path: Path) -> list[Path]:
    return list((path / "checkpoints").glob("step_*.tmp"))


def _kill_somewhere(values: Values, draw: random.Random, seconds: float) -> str | None:
    """Start a run, lose a random rank of it and return when that was; none where it came too late.

    At any instant, or in every other run at one of a save.
    """
    run = Run.start(values)
    rank = draw.randrange(WORLD_SIZE)
    if draw.random() < 0.5:
        time.sleep(draw.uniform(0, seconds))
    else:
        for _ in range(draw.randint(1, 5)):
            run.wait_for(lambda: bool(_saving(run.path)))
            run.wait_for(lambda: not _saving(run.path))
        run.wait_for(lambda: bool(_saving(run.path)))
        time.sleep(draw.uniform(0, 0.05))
    was_over, was_saving = run.is_over, bool(_saving(run.path))
    run.lose(rank)
    saved = [folder.step_of(path) for path in folder.all_checkpoints(run.path)]
    return None if was_over else f"rank {rank} killed {'in a save' if was_saving else 'between saves'}: {saved} saved"


@pytest.mark.parametrize("number", range(NUM_RUNS))
def test_a_killed_run_ends_like_an_undisturbed_one(
    number: int,
    make_run: MakeRun,
    undisturbed: Callable[[str, str], Undisturbed],
    tmp_path: Path,
) -> None:
    draw = random.Random(number)
    stage, layout = STAGES[number % 2], list(LAYOUTS)[number % 3]
    whole = undisturbed(stage, layout)
    values, instant = make_run(stage, layout, tmp_path / "run"), None
    while instant is None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        instant = _kill_somewhere(values, draw, whole.seconds)
    print(f"{stage} {layout}: {instant}")
    again = Run.start(values)
    assert again.wait() == [0, 0], again.log
    assert read_records(again.path) == whole.records
    newest = folder.newest_checkpoint(again.path)
    assert newest is not None
    assert folder.read_state(newest) == folder.read_state(folder.step_path(whole.path, folder.step_of(newest)))
    assert (again.path / "checkpoints" / "latest").read_text().strip() == newest.name
    names = {path.name for path in (again.path / "checkpoints").iterdir()}
    assert names == {"step_0000010", "step_0000012", "latest"}
