"""The runner of all examples: steps are commands that are streamed, logged, resumed, and skipped if already done.

A finished step leaves a marker with the hash of its command and of the steps before it. A later call reuses such
steps; a folder that holds steps of other arguments is refused, never replaced silently. Of several threads and
processes that want the same step, one runs it and the others wait.
"""

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from megatron_prealign.command_line import HelpFormatter, path_argument
from megatron_prealign.errors import STOPPED_BY_KEYBOARD, PrealignError
from megatron_prealign.files import write_atomically

REPOSITORY = Path(__file__).resolve().parents[1]
LABEL_STYLES = {"joint": "yellow", "prealign": "cyan", "lm_only": "yellow", "align_init": "cyan"}

_POLL_SECONDS = 0.5

# Without these, glibc frees and allocates the logits in every step: a third of the time.
MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Make Linux terminate this new process when its parent dies for any reason."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class StepError(PrealignError):
    """A command failed, or a folder holds the steps of another experiment."""


@dataclass(frozen=True)
class Step:
    """A command and its outputs."""

    name: str
    """Short and unique; names the marker and the log."""
    command: tuple[str, ...]
    """The command line, beginning with an interpreter; run in the root of the repository."""
    outputs: tuple[Path, ...]
    """Files and folders that it writes."""
    depends_on: tuple["Step", ...] = ()
    """Steps whose outputs it reads."""
    inputs: tuple[Path, ...] = ()
    """Files whose content matters, such as configurations."""
    resumable: bool = False
    """Whether the command itself resumes an interrupted call."""
    is_whole: Callable[[], bool] = lambda: True
    """Whether a finished step still has what is wanted of it, beyond files that exist."""

    @property
    def fingerprint(self) -> str:
        """Return a hash of the command, the content of its inputs, and all steps before it."""
        # Without the interpreter's path: the virtual environment may be moved.
        content = [
            self.command[1:],
            [path.read_text(encoding="utf-8") for path in self.inputs],
            [step.fingerprint for step in self.depends_on],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


Stage = Sequence[Step] | Mapping[str, Iterable[Step]] | Callable[[], None]
"""Steps one after the other; chains of them side by side, by label; or a function."""


@dataclass
class Runner:
    """Runs steps one after another, or several chains of them in parallel, and shows their output."""

    folder: Path
    """The experiment's folder, which holds markers and logs."""
    console: Console
    """Console for progress."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables added for every command."""
    redo: bool = False
    """Replace steps made with other arguments instead of refusing them."""
    shows_output: bool = True
    """Show what commands print; it is logged either way."""
    started: float = field(default_factory=time.monotonic)
    """When the experiment began, on the monotonic clock."""
    _running: set[subprocess.Popen[str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run_stages(self, stages: Sequence[tuple[str, Stage]]) -> None:
        """Do the stages of an experiment, each with its title and the time since the start."""
        for number, (title, stage) in enumerate(stages, start=1):
            elapsed = format_seconds(time.monotonic() - self.started)
            self.console.print()
            self.console.rule(f"[bold]{number}/{len(stages)} {title}[/] [dim]({elapsed} so far)[/]", align="left")
            if callable(stage):
                stage()
            elif isinstance(stage, Mapping):
                self.run_side_by_side(stage, min(2, count_cores()))
            else:
                self.run_all(stage)

    def run_all(self, steps: Iterable[Step], label: str = "") -> None:
        """Run steps one after the other; an iterator makes its next step when the one before is done."""
        for step in steps:
            self.run(step, label)

    def _marker(self, step: Step) -> Path:
        return self.folder / "steps" / f"{step.name}.json"

    def seconds(self, step: Step) -> float:
        """Return how long a finished step took."""
        return float(self._state(self._marker(step))["seconds"])

    def _state(self, marker: Path) -> dict[str, Any]:
        if not marker.exists():
            return {}
        try:
            state: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
            _ = state["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise StepError(f"{marker}: damaged ({error!r}); remove it to run the step again") from None
        return state

    def run(self, step: Step, label: str = "") -> None:
        """Run a step unless it is done.

        Raises:
            StepError: the command failed, or the folder holds this step with other arguments.
        """
        marker = self._marker(step)
        with self._locked(step.name, label):
            state = self._state(marker)
            if state and state["fingerprint"] != step.fingerprint:
                if not self.redo and any(path.exists() for path in step.outputs):
                    raise StepError(
                        f"{self.folder} contains the step {step.name!r} of an experiment with other arguments or "
                        "configurations: choose another --output, or replace it with --redo"
                    )
                state = {}
            if state.get("done") and all(path.exists() for path in step.outputs) and step.is_whole():
                if self.shows_output:
                    self._show(label, f"reusing {', '.join(map(str, step.outputs))}", "dim")
                return
            if not (state and step.resumable):
                remove(step.outputs)
            for path in step.outputs:
                path.parent.mkdir(parents=True, exist_ok=True)
            start = time.monotonic()
            write_json(marker, {"fingerprint": step.fingerprint, "done": False})
            self._execute(step, label)
            if missing := [str(path) for path in step.outputs if not path.exists()]:
                raise StepError(f"the step {step.name!r} succeeded but did not write {', '.join(missing)}")
            seconds = time.monotonic() - start
            write_json(marker, {"fingerprint": step.fingerprint, "done": True, "seconds": round(seconds, 1)})
            self._show(label, f"{step.name} done in {format_seconds(seconds)}", "green")

    @contextmanager
    def _locked(self, name: str, label: str) -> Iterator[None]:
        """Hold a step's lock, of which a killed process lets go; a runner that is stopped waits no longer for it."""
        path = self.folder / f"locks/{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        says = f"waits for {name}, which another run is making"
        with path.open("w") as stream:
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if says:
                        self._show(label, says, "dim")
                    says = ""
                    if self._stopped.wait(_POLL_SECONDS):
                        raise InterruptedError(name) from None
            yield

    def run_side_by_side(
        self,
        chains: Mapping[str, Iterable[Step]],
        num_workers: int,
        failed: Callable[[str, Exception], None] | None = None,
    ) -> None:
        """Run chains of steps in parallel; an interrupt stops all of them.

        Args:
            chains: label → steps; a chain makes its next step when the one before is done.
            num_workers: number of chains that run at the same time.
            failed: told the label and the error of a chain that failed while the others go on; none = it stops them.

        Raises:
            StepError: the error of the first chain that failed.
        """

        def run_chain(label: str, chain: Iterable[Step]) -> None:
            try:
                self.run_all(chain, label)
            except Exception as error:
                if failed is None or isinstance(error, InterruptedError):
                    raise
                failed(label, error)

        with ThreadPoolExecutor(num_workers) as pool:
            futures = [pool.submit(run_chain, label, chain) for label, chain in chains.items()]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
                raise

    def stop(self) -> None:
        """Terminate running commands, and start no others."""
        with self._lock:
            self._stopped.set()
            for process in self._running:
                with suppress(ProcessLookupError):
                    process.terminate()

    def _execute(self, step: Step, label: str) -> None:
        """Run a command, show and log its lines."""
        self._show(label, "$ " + shlex.join(["python", *step.command[1:]]), "dim")
        log_path = self.folder / "logs" / f"{step.name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if self._stopped.is_set():
                raise InterruptedError(step.name)
            process = subprocess.Popen(
                step.command,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                # A training that outlives a killed runner would keep its run folder locked.
                preexec_fn=_end_with_parent,
            )
            self._running.add(process)
        with process, log_path.open("a", encoding="utf-8") as log:
            assert process.stdout is not None
            reason = ""
            for line in process.stdout:
                log.write(line)
                if line.startswith("error: "):
                    reason = f": {line.removeprefix('error: ').strip()}"
                elif reason and line.startswith("  - "):  # one of several problems
                    reason += line.rstrip().removeprefix(" ")
                # Output of commands being stopped would hide the reason of the failure.
                if line.strip() and self.shows_output and not self._stopped.is_set():
                    self._show(label, line.rstrip())
        with self._lock:
            self._running.discard(process)
            if process.returncode and self._stopped.is_set():
                raise InterruptedError(step.name)
        if process.returncode:
            raise StepError(f"the step {step.name!r} ended with code {process.returncode}{reason} (log: {log_path})")

    def _show(self, label: str, text: str, style: str = "") -> None:
        prefix = Text(f"[{label}] ", style=LABEL_STYLES.get(label.split()[0], "")) if label else Text()
        self.console.print(prefix + Text(text, style=style), soft_wrap=True, highlight=False)


def format_seconds(seconds: float) -> str:
    """Return a duration as minutes and seconds."""
    return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"


def repository_path(text: str) -> Path:
    """Return a path of the command line, relative to the repository if it lies in it."""
    return from_repository(absolute_path(text))


def absolute_path(text: str) -> Path:
    """Return a path of the command line that stays valid when commands run in the root of the repository."""
    return path_argument(text).resolve()


def example_parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """Make a command line with the options of every example.

    Args:
        description: the docstring of the module.
        output: default folder, relative to the repository.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=repository_path, default=Path(output), help="folder of everything")
    parser.add_argument("--redo", action="store_true", help="replace steps that were made with other arguments")
    return parser


def run_example(
    arguments: argparse.Namespace,
    work: Callable[[Runner], int | None],
    environment: Mapping[str, str] | None = None,
    *,
    shows_output: bool = True,
) -> int:
    """Do an example's work in the root of the repository, and return the exit code.

    Args:
        arguments: of `example_parser`.
        work: runs the steps.
        environment: variables added for every command.
        shows_output: show what commands print, and at the end how long all took.
    """
    os.chdir(REPOSITORY)
    runner = Runner(arguments.output, Console(), environment or {}, arguments.redo, shows_output)
    try:
        code = work(runner) or 0
    except KeyboardInterrupt:
        runner.stop()
        print("stopped; run the same command to continue from here", file=sys.stderr)
        return STOPPED_BY_KEYBOARD
    if shows_output:
        runner.console.print(f"Took {format_seconds(time.monotonic() - runner.started)}.", highlight=False)
    return code


def remove(paths: tuple[Path, ...]) -> None:
    """Remove what an interrupted command left."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def from_repository(path: Path) -> Path:
    """Return an absolute path relative to the repository if it lies in it: commands run there, and read better."""
    return path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path


def count_cores() -> int:
    """Return the processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side_environment(jobs: int = 2) -> dict[str, str]:
    """Return the variables of commands of which several run at once."""
    # One thread each: two trainings on two cores; idle threads of a larger pool would only wait for each other.
    return {**MALLOC_ENVIRONMENT, "OMP_NUM_THREADS": str(max(1, count_cores() // jobs)), "TQDM_DISABLE": "1"}
