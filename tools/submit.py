"""Submit a chain of steps to Slurm, each after the one before it, or run it on this machine.

    python tools/submit.py examples/own_data/chain.yaml [--dry-run | --local]

A step that has finished leaves a mark in the chain's folder. The same command continues a chain that failed: finished
steps are left out. docs/cluster.md describes the file.
"""

import argparse
import fcntl
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.config.sources import read_yaml_as
from megatron_prealign.errors import INTERRUPTED, ConfigError
from megatron_prealign.files import write_atomically

# One form of each option: arrays are told by theirs.
_OPTION = re.compile(r"--[a-z][a-z-]*(=.+)?")
_SECONDS_TO_ANSWER = 60  # squeue waits for ever for a controller that is away
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]

# A task of an array has a mark of its own and is requeued alone. A failed start is not taken for the stop before it.
_SCRIPT = """#!/bin/bash
{directives}
task=${{SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}}
mark={mark}$task
[ ! -e "$mark" ] || exit 0
note={note}
rm -f "$note"
(
set -euo pipefail
{commands}
)
code=$?
if [ "$code" -eq 0 ]; then touch "$mark"; exit; fi
if grep -qs '"exit_code": {stopped}' "$note"; then code={stopped}; fi
if [ "$code" -eq {stopped} ] && [ "${{SLURM_JOB_ID:-}}" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}
    scontrol requeue "$job${{task/./_}}"
fi
exit "$code"
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a chain."""

    name: Name
    """Part of the job's name and of its files."""
    command: str
    """Lines of bash; the first one that fails ends the step."""
    options: list[str] = field(default_factory=list)
    """Of sbatch, after those of the chain."""
    run_path: str | None = None
    """Folder of the training run, whose exit.json tells whether it only stopped: torchrun does not."""
    beside: bool = False
    """No step waits for it; it starts when the one after it may, which it watches. With --local it runs last."""

    @property
    def array(self) -> str | None:
        """The tasks of a job array, as sbatch takes them."""
        values = [option.partition("=")[2] for option in self.options if option.startswith("--array=")]
        return values[-1] if values else None

    @property
    def tasks(self) -> list[str]:
        """What ends the names of the step's marks: nothing, or of an array the number of each task."""
        if self.array is None:
            return [""]
        # Without the limit of tasks at a time; steps (0-9:3) are left to the tasks, which end at once if marked.
        parts = [part.split("-") for part in self.array.partition("%")[0].split(",")]
        if not all(number.isdecimal() for part in parts for number in part):
            return []
        return [f".{task}" for first, *last in parts for task in range(int(first), int((last or [first])[0]) + 1)]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What a file describes."""

    name: Name
    """Begins the names of its jobs."""
    folder: Path
    """For scripts, logs and the marks of finished steps, on a file system that all nodes share."""
    steps: Annotated[list[Step], Field(min_length=1)]
    """In the order they run in."""
    options: list[str] = field(default_factory=list)
    """Of sbatch, for all steps."""
    setup: str = ""
    """Lines of bash before each command: modules, a virtual environment."""
    max_restarts: Annotated[int, Field(ge=0)] = 100
    """How often a step that was stopped is requeued."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("chain", type=path_argument, help="YAML file of the chain")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="print the scripts, and submit nothing")
    how.add_argument("--local", action="store_true", help="run the steps here, one after the other, without Slurm")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, the exit code of a step that failed here, or 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    chain = read_chain(arguments.chain)
    if arguments.dry_run:
        for step in chain.steps:
            print(f"# {_path(chain, step, 'sh')}{' (finished)' if _is_finished(chain, step) else ''}")
            print(script(chain, step))
        return 0
    _check(chain, is_local=arguments.local)
    chain.folder.mkdir(parents=True, exist_ok=True)
    todo = [step for step in chain.steps if not _is_finished(chain, step)]
    for step in chain.steps:
        if step not in todo:
            print(f"{step.name}: finished")
    for step in todo:
        write_atomically(_path(chain, step, "sh"), script(chain, step))
    return _run_here(chain, todo) if arguments.local else _submit(chain, todo)


def read_chain(path: Path) -> Chain:
    """Read the file of a chain.

    Raises:
        PrealignError: Every unknown, missing or wrong key.
    """
    chain: Chain = read_yaml_as(path, Chain)
    names = [step.name for step in chain.steps]
    given = {"options": chain.options} | {f"step {step.name}: options": step.options for step in chain.steps}
    if wrong := [
        f"{path}: {place}: {option}: write it as --name or --name=value"
        for place, options in given.items()
        for option in options
        if not _OPTION.fullmatch(option)
    ]:
        raise ConfigError(wrong)
    if any(option.startswith("--array") for option in chain.options):
        raise ConfigError(f"{path}: options: --array belongs to a step")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: steps: {', '.join(repeated)} is there twice; give each step a name of its own")
    return chain


def script(chain: Chain, step: Step) -> str:
    """Return the batch script of a step; bash runs it as well."""
    log = _path(chain, step, "%A_%a.log" if step.array else "%j.log")
    directives = [f"--job-name={chain.name}-{step.name}", f"--output={log}", "--requeue", "--open-mode=append"]
    directives += [f"--chdir={Path.cwd()}", *chain.options, *step.options]
    note = f"{step.run_path}/exit.json" if step.run_path is not None else ""
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in directives),
        mark=shlex.quote(str(_path(chain, step, "done"))),
        commands="\n".join(part.strip() for part in (chain.setup, step.command) if part),
        note=shlex.quote(note),
        stopped=INTERRUPTED,
        restarts=chain.max_restarts,
    )


def _path(chain: Chain, step: Step, suffix: str) -> Path:
    return chain.folder.absolute() / f"{step.name}.{suffix}"


def _marks(chain: Chain, step: Step) -> list[Path]:
    """Return the marks of a step that has finished; empty for an array of an unusual range."""
    return [_path(chain, step, f"done{task}") for task in step.tasks]


def _is_finished(chain: Chain, step: Step) -> bool:
    marks = _marks(chain, step)
    return bool(marks) and all(mark.exists() for mark in marks)


def _check(chain: Chain, *, is_local: bool) -> None:
    """Raise everything that speaks against running the chain."""
    problems = []
    for step in chain.steps:
        before = _path(chain, step, "sh")
        is_other = not before.exists() or before.read_text(encoding="utf-8") != script(chain, step)
        if is_other and _is_finished(chain, step):
            marks = ", ".join(map(str, _marks(chain, step)))
            change = "the step is finished, but would now be another; undo the change"
            problems.append(f"{before}: {change}, or remove {marks}")
    if is_local:
        arrays = [step.name for step in chain.steps if step.array]
        problems += [f"step {name}: is a job array, which --local can't run" for name in arrays]
    elif shutil.which("sbatch") is None:
        problems.append("no sbatch here; run this on a machine that submits jobs, or pass --local or --dry-run")
    elif queued := _queued(chain):
        problems.append(f"jobs {', '.join(queued)} of this chain are in the queue; wait, or end them with scancel")
    if problems:
        raise ConfigError(problems)


def _queued(chain: Chain) -> list[str]:
    names = ",".join(f"{chain.name}-{step.name}" for step in chain.steps)
    return _slurm("squeue", "--me", "--noheader", "--sort=i", "--format=%i", f"--name={names}").split()


def _submit(chain: Chain, steps: Sequence[Step]) -> int:
    before: list[str] = []
    jobs: list[str] = []
    for step in steps:
        try:
            job = _slurm("sbatch", "--parsable", *before, str(_path(chain, step, "sh"))).strip().partition(";")[0]
        except ConfigError as error:
            left = f"; {', '.join(jobs)} stay in the queue: scancel {' '.join(jobs)}, or let them end" if jobs else ""
            raise ConfigError(f"step {step.name}: {error}{left}") from None
        jobs.append(job)
        if not step.beside:
            before = [f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]
        print(f"{step.name}: job {job}")
    return 0


def _run_here(chain: Chain, steps: Sequence[Step]) -> int:
    with (chain.folder / "local.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{chain.folder}: a step of this chain runs here already; wait for its end") from None
        return _run_steps(chain, steps, lock.fileno())


def _run_steps(chain: Chain, steps: Sequence[Step], lock: int) -> int:
    """Run steps; each holds the lock too, so that one whose submit.py was killed is not run a second time beside it."""
    for step in sorted(steps, key=lambda step: step.beside):
        for _ in range(chain.max_restarts + 1):
            code = subprocess.run(["bash", str(_path(chain, step, "sh"))], pass_fds=[lock]).returncode
            if code != INTERRUPTED:
                break
        if code:
            print(f"error: step {step.name} ended with {code}", file=sys.stderr)
            return code
    return 0


def _slurm(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{command[0]}: no answer within {_SECONDS_TO_ANSWER} seconds; is slurmctld up?") from None
    if result.returncode:
        raise ConfigError(f"{shlex.join(command)}: {result.stderr.strip()}")
    return result.stdout


if __name__ == "__main__":
    raise SystemExit(main())
