"""Four hosts with one rank each train as one host does, through both stages."""

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Host
from tests.cluster.training_hosts import TrainingHosts
from tests.launching import start, train_records
from tests.workspace import MakeValues

LAYOUTS = {
    "tp2-pp2": {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2},
    "dp4": {},
}
NUM_STEPS = 120
RELATIVE = 1e-5


def _both_stages(make_values: MakeValues, folder: Path, parallel: Any) -> list[Any]:
    """Return the configurations of the two stages with their runs in `folder`."""
    common: dict[str, Any] = {
        "model": {"num_layers": 2},
        "parallel": parallel,
        "training": {"train_steps": NUM_STEPS, "micro_batch_size": 2, "global_batch_size": 8},
        "logging": {"log_interval": 1},
    }
    first = make_values("align_init", folder / "align_init", **common)
    second = make_values(
        "pretrain", folder / "pretrain", checkpoint={"init_from": str(folder / "align_init")}, **common
    )
    return [first, second]


@pytest.mark.exhaustive
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_stages_are_those_of_one_host(
    hosts: list[Host], layout: str, make_values: MakeValues, tmp_path: Path
) -> None:
    one, four = tmp_path / "one", tmp_path / "four"
    one.mkdir()
    training = TrainingHosts(hosts, four)
    for values in _both_stages(make_values, one, LAYOUTS[layout]):
        run = Path(values["training"]["run_path"])
        process = start(values, one / f"{run.name}.log", "--standalone", "--nproc-per-node=4")
        assert process.wait() == 0, (one / f"{run.name}.log").read_text()[-3000:]
    for values in _both_stages(make_values, four, LAYOUTS[layout]):
        processes = training.start(values)
        assert [process.wait() for process in processes] == [0] * 4, training.logs()
        name = Path(values["training"]["run_path"]).name
        expected, records = train_records(one / name), train_records(training.own(0) / name)
        assert list(records) == list(expected) == list(range(1, NUM_STEPS + 1))
        for step, record in records.items():
            assert record == pytest.approx(expected[step], rel=RELATIVE), (name, step)
