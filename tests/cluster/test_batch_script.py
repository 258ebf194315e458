"""The batch script of docs/operations.md: how runs end is how jobs end, and a run that was stopped is requeued."""

import re
import shutil
from pathlib import Path

from tests.cluster.slurm import Slurm
from tests.launching import ROOT

# Stands in for torchrun: ends as the lines of the file say, one a start.
ENDS = """#!/bin/bash
[ "$SLURM_PROCID" = 0 ] || exit 0
read -r code note < <(sed -n "$((${SLURM_RESTART_COUNT:-0} + 1))p" FOLDER/ends)
rm -f FOLDER/exit.json
[ -z "$note" ] || echo "{\\"exit_code\\": $note, \\"cause\\": \\"test\\"}" > FOLDER/exit.json
exit "$code"
"""


def batch_script(folder: Path) -> str:
    """Return the script with the run folder of a test."""
    text = (ROOT / "docs" / "operations.md").read_text()
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", text, re.DOTALL)
    return re.sub("^run=.*", f"run={folder}", script, flags=re.MULTILINE)


def _submit_with_ends(slurm: Slurm, folder: Path, ends: str, user: str = "root") -> str:
    (folder / "ends").write_text(ends)
    (folder / "torchrun").write_text(ENDS.replace("FOLDER", str(folder)))
    (folder / "torchrun").chmod(0o755)
    script = batch_script(folder).replace("srun torchrun", f"srun {folder}/torchrun")
    (folder / "job.sh").write_text(script)
    return slurm.submit(folder / "job.sh", f"--output={folder}/job.out", user=user)


def test_a_failed_run_is_a_failed_job_and_nothing_that_depends_on_it_starts(slurm: Slurm, tmp_path: Path) -> None:
    job = _submit_with_ends(slurm, tmp_path, "1")
    (tmp_path / "after.sh").write_text("#!/bin/bash\n#SBATCH --output=/dev/null\ntrue\n")
    after = slurm.submit(tmp_path / "after.sh", f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes")
    assert slurm.wait(job) == ("FAILED", "1:0")
    assert slurm.wait(after)[0] == "CANCELLED"


def test_a_stopped_run_is_requeued_until_it_ends(slurm: Slurm, tmp_path: Path) -> None:
    job = _submit_with_ends(slurm, tmp_path, "1 75\n1 75\n0 0\n")
    assert slurm.wait(job) == ("COMPLETED", "0:0")
    assert slurm.show(job)["Restarts"] == "2"
    refused = _submit_with_ends(slurm, tmp_path, "1 3\n")
    assert slurm.wait(refused) == ("FAILED", "1:0")
    assert slurm.show(refused)["Restarts"] == "0"


def test_an_ordinary_users_run_is_requeued(slurm: Slurm) -> None:
    folder = slurm.folder / "games"
    folder.mkdir()
    shutil.chown(folder, "games")
    job = _submit_with_ends(slurm, folder, "1 75\n0 0\n", user="games")
    assert slurm.wait(job) == ("COMPLETED", "0:0")
    fields = slurm.show(job)
    assert fields["UserId"].startswith("games(")
    assert fields["Restarts"] == "1"
    assert (folder / "exit.json").owner() == "games"
