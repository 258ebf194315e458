"""Two hosts train as one, with tensor parallelism within and another across; also after their link was cut."""

from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from tests.launching import train_records, wait_until
from tests.training.two_hosts import two_hosts
from tests.workspace import MakeValues


def _train(values: Any) -> None:
    make_trainer(values).train()


@pytest.mark.slow
@pytest.mark.parametrize("across", ["data", "pipeline"])
def test_two_hosts_train_as_one_also_when_their_link_was_cut(
    across: str, make_values: MakeValues, tmp_path: Path
) -> None:
    overrides: dict[str, Any] = {
        "parallel": {"tensor_model_parallel_size": 2, "distributed_timeout_minutes": 0.4},
        "data": {"cache_path": str(tmp_path / "cache")},
        "training": {"train_steps": 40},
        "logging": {"log_interval": 1},
        "checkpoint": {"save_interval": 5},
    }
    if across == "pipeline":
        overrides["parallel"]["pipeline_model_parallel_size"] = 2
    one, run = tmp_path / "one", tmp_path / "run"
    run_distributed(_train, 4, make_values("pretrain", one, **overrides))
    run.mkdir()
    values = make_values("pretrain", run, **overrides)
    with two_hosts(tmp_path) as hosts:
        logs = [tmp_path / "1.log", tmp_path / "2.log"]
        pairs = zip(hosts, logs, strict=True)
        processes = [host.start(values, log, hosts[0], "--max-restarts", "2") for host, log in pairs]
        wait_until((hosts[0].folder / "checkpoints" / "step_0000010").exists, processes[0])
        hosts[1].set_link("down")
        for log, process in zip(logs, processes, strict=True):
            wait_until(lambda log=log: "lost contact with another rank" in log.read_text(), process)  # type: ignore[misc]
        hosts[1].set_link("up")
        assert [process.wait() for process in processes] == [0, 0]
        assert not list(run.iterdir())
        records, expected = train_records(hosts[0].folder), train_records(one)
    assert records.keys() == expected.keys()
    for step, record in records.items():
        assert record == pytest.approx(expected[step], rel=1e-5), step
