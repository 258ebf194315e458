"""The cluster of the tests is a real one: jobs on all hosts, a host that dies, dependencies that fail."""

from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm, wait_until


def _script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/bash\n#SBATCH --output={path}.out\n{body}\n")
    return path


def test_tasks_run_on_hosts_of_their_own(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.submit(_script(tmp_path / "a", "srun --label sh -c 'hostname; ls -d /proc/[0-9]* | wc -l'"), "-N4")
    assert slurm.wait(job) == ("COMPLETED", "0:0")
    lines = (tmp_path / "a.out").read_text().split()
    assert {"n1", "n2", "n3", "n4"} <= set(lines)
    assert max(int(word) for word in lines if word.isdecimal()) < 50  # the processes of a host, not of the machine


@pytest.mark.slow
def test_a_job_starts_again_when_its_host_is_killed(slurm: Slurm, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    body = f'[ -z "$SLURM_RESTART_COUNT" ] || exit 0\ntouch {ran}\nsleep 1000'
    job = slurm.submit(_script(tmp_path / "b", body), "--requeue", "-wn2")
    wait_until(ran.exists)
    slurm.hosts[1].kill()
    slurm.start_host(slurm.hosts[1])
    assert slurm.wait(job) == ("COMPLETED", "0:0")
    assert slurm.show(job)["Restarts"] == "1"
