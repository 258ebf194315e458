"""tools/submit.py on a real Slurm: a chain runs in order, stops where a step fails, and continues there."""

from pathlib import Path

import pytest
import yaml

from tests.cluster.slurm import Slurm, jobs_of
from tools.submit import main


def _write(folder: Path, **commands: str) -> str:
    """Write a chain whose steps also add their names to the file `order`."""
    steps = [
        {"name": name, "command": f"echo {name} >> {folder}/order\n{command}", "run_path": str(folder / name)}
        for name, command in commands.items()
    ]
    chain = {"name": "test", "folder": str(folder / "chain"), "setup": "word=before", "steps": steps}
    (folder / "chain.yaml").write_text(yaml.safe_dump(chain))
    return str(folder / "chain.yaml")


def test_a_failed_step_stops_the_chain_which_continues_there(
    slurm: Slurm, login: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(login, one='[ "$word" = before ]', two=f"false\ntouch {login}/never", three="true")
    assert main([path]) == 0
    jobs = jobs_of(capsys.readouterr().out)
    assert list(jobs) == ["one", "two", "three"]
    assert [slurm.wait(job)[0] for job in jobs.values()] == ["COMPLETED", "FAILED", "CANCELLED"]
    assert (login / "order").read_text().split() == ["one", "two"]
    assert not (login / "never").exists()
    path = _write(login, one='[ "$word" = before ]', two="true", three="true")
    assert main([path]) == 0
    jobs = jobs_of(capsys.readouterr().out)
    assert [slurm.wait(job)[0] for job in jobs.values()] == ["COMPLETED"] * 2
    assert (login / "order").read_text().split() == ["one", "two", "two", "three"]
    assert main([path]) == 0
    assert capsys.readouterr().out == "one: finished\ntwo: finished\nthree: finished\n"
    path = _write(login, one="false", two="true", three="true")
    assert main([path]) == 2
    assert "one.sh: the step is finished, but would now be another" in capsys.readouterr().err


def test_a_step_that_was_stopped_is_requeued(slurm: Slurm, login: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # As torchrun: 1 whatever its processes returned.
    stop = f"mkdir -p {login}/one; echo '{{\"exit_code\": 75}}' > {login}/one/exit.json; exit 1"
    path = _write(login, one=f'[ "${{SLURM_RESTART_COUNT:-0}}" = 2 ] || {{ {stop}; }}', two="exit 3")
    assert main([path]) == 0
    jobs = jobs_of(capsys.readouterr().out)
    assert main([path]) == 2
    assert f"jobs {jobs['one']}, {jobs['two']} of this chain are in the queue" in capsys.readouterr().err
    assert slurm.wait(jobs["one"]) == ("COMPLETED", "0:0")
    assert slurm.show(jobs["one"])["Restarts"] == "2"
    assert slurm.wait(jobs["two"]) == ("FAILED", "3:0")


def test_unfinished_tasks_of_an_array_run_again(slurm: Slurm, login: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f'echo $SLURM_ARRAY_TASK_ID >> {login}/order; [ "$SLURM_ARRAY_TASK_ID" = 0 ] || [ -e {login}/ready ]'
    steps = [{"name": "bake", "command": command, "options": ["--array=0-1"]}]
    (login / "chain.yaml").write_text(yaml.safe_dump({"name": "test", "folder": "chain", "steps": steps}))
    for expected in (["COMPLETED", "FAILED"], ["COMPLETED", "COMPLETED"]):
        assert main(["chain.yaml"]) == 0
        job = jobs_of(capsys.readouterr().out)["bake"]
        assert [slurm.wait(f"{job}_{task}")[0] for task in (0, 1)] == expected
        (login / "ready").touch()
    assert sorted((login / "order").read_text().split()) == ["0", "1", "1"]


def test_no_step_waits_for_one_beside_it(slurm: Slurm, login: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [
        {"name": "one", "command": f"touch {login}/one"},
        {
            "name": "watch",
            "beside": True,
            "command": f"[ -e {login}/one ]\nuntil [ -e {login}/two ]; do sleep 0.1; done",
        },
        {"name": "two", "command": f"touch {login}/two"},
    ]
    (login / "chain.yaml").write_text(yaml.safe_dump({"name": "test", "folder": "chain", "steps": steps}))
    assert main(["chain.yaml"]) == 0
    jobs = jobs_of(capsys.readouterr().out)
    assert [slurm.wait(job)[0] for job in jobs.values()] == ["COMPLETED"] * 3
