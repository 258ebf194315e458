"""A link that is down for a while, and a killed host that is started again: the run ends as an undisturbed one."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Host
from tests.cluster.slurm import wait_until
from tests.cluster.training_hosts import TrainingHosts
from tests.launching import start, train_records
from tests.workspace import MakeValues

DOWN_SECONDS = 20.0
NUM_STEPS = 80
BEFORE = 20
"""Steps until something happens."""
SLOW_SECONDS = 600.0

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(2000)]


@pytest.fixture(scope="module")
def make_run(make_values: MakeValues) -> Any:
    def make(run_path: Path, timeout_minutes: float = 30.0) -> dict[str, Any]:
        return make_values(
            "pretrain",
            run_path,
            model={"num_layers": 2},
            parallel={"distributed_timeout_minutes": timeout_minutes},
            training={"train_steps": NUM_STEPS},
            checkpoint={"save_interval": 10},
            logging={"log_interval": 1},
        )

    return make


@pytest.fixture(scope="module")
def undisturbed(make_run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """The records of the run on one host."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(make_run(folder / "run"), folder / "log", "--standalone", "--nproc-per-node=4")
    assert process.wait() == 0, (folder / "log").read_text()[-3000:]
    return train_records(folder / "run")


def _last_step(run: Path) -> int:
    """Return the last step that a run has recorded."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def test_a_link_that_is_down_for_20_seconds_only_delays(
    hosts: list[Host], make_run: Any, undisturbed: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    training = TrainingHosts(hosts, runs)
    processes = training.start(make_run(runs / "run"), "--max-restarts=0")
    run = training.own(0) / "run"
    wait_until(lambda: _last_step(run) >= BEFORE, SLOW_SECONDS)
    hosts[2].set_link("down")
    time.sleep(2)
    reached = _last_step(run)
    time.sleep(DOWN_SECONDS - 2)
    assert _last_step(run) == reached < NUM_STEPS
    hosts[2].set_link("up")
    assert [process.wait() for process in processes] == [0] * 4, training.logs()
    assert train_records(run) == undisturbed


@pytest.mark.parametrize("lost", [1, 2, 3, 1, 2])
def test_a_killed_host_that_comes_back_is_taken_in(
    hosts: list[Host], lost: int, make_run: Any, undisturbed: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    training = TrainingHosts(hosts, runs)
    processes = training.start(make_run(runs / "run", timeout_minutes=0.5), "--max-restarts=3")
    run = training.own(0) / "run"
    wait_until(lambda: _last_step(run) >= BEFORE, SLOW_SECONDS)
    # Its end reaches nobody, as where the power fails.
    hosts[lost].set_link("down")
    hosts[lost].kill()
    killed = time.monotonic()
    others = [number for number in range(4) if number != lost]
    wait_until(lambda: all("lost contact" in training.log(number).read_text() for number in others), SLOW_SECONDS)
    hosts[lost].set_link("up")
    processes[lost] = training.start_host(lost)
    assert [process.wait() for process in processes] == [0] * 4, training.logs()
    print(f"{time.monotonic() - killed:.0f} s from the kill to the end of the run")
    assert train_records(run) == undisturbed
