"""Run the steps of an experiment: commands that are streamed, logged, and skipped if already done.

A finished step leaves a marker with the hash of its command and of the steps before it. A later call reuses such
steps; a folder that holds steps of other arguments is refused, never replaced silently.
"""

import argparse
import ctypes
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from megatron_prealign.command_line import describe
from megatron_prealign.errors import PrealignError
from megatron_prealign.files import atomic_text_file

REPOSITORY = Path(__file__).resolve().parents[1]
LABEL_STYLES = {"joint": "yellow", "prealign": "cyan", "lm_only": "yellow", "align_init": "cyan"}

# Without these, glibc frees and allocates the logits in every step: a third of the time.
MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Make Linux terminate this new process when its parent dies for any reason."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class StepError(Exception):
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

    def heading(self, number: int, total: int, title: str) -> None:
        """Show the title of a stage and the time since the start."""
        elapsed = format_seconds(time.monotonic() - self.started)
        self.console.print()
        self.console.rule(f"[bold]{number}/{total} {title}[/] [dim]({elapsed} so far)[/]", align="left")

    def run_stages(self, stages: Sequence[tuple[str, Sequence[Step]]], total: int) -> None:
        """Run the first stages of an experiment, each a title and its steps, of `total` stages."""
        for number, (title, steps) in enumerate(stages, start=1):
            self.heading(number, total, title)
            for step in steps:
                self.run(step)

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
        state = self._state(marker)
        if state and state["fingerprint"] != step.fingerprint:
            if not self.redo and any(path.exists() for path in step.outputs):
                raise StepError(
                    f"{self.folder} contains the step {step.name!r} of an experiment with other arguments or "
                    "configurations: choose another --output, or replace it with --redo"
                )
            state = {}
        if state.get("done") and all(path.exists() for path in step.outputs):
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
        missing = [str(path) for path in step.outputs if not path.exists()]
        if missing:
            raise StepError(f"the step {step.name!r} succeeded but did not write {', '.join(missing)}")
        seconds = time.monotonic() - start
        write_json(marker, {"fingerprint": step.fingerprint, "done": True, "seconds": round(seconds, 1)})
        self._show(label, f"{step.name} done in {format_seconds(seconds)}", "green")

    def run_side_by_side(self, chains: Mapping[str, Iterator[Step]], num_workers: int) -> None:
        """Run chains of steps in parallel; a failure or an interrupt stops all of them.

        Args:
            chains: label → steps; a chain yields its next step when the previous one is done.
            num_workers: number of chains that run at the same time.

        Raises:
            StepError: the error of the first chain that failed.
        """

        def run_chain(label: str, chain: Iterator[Step]) -> None:
            try:
                for step in chain:
                    self.run(step, label)
            except BaseException:
                self.stop()
                raise

        with ThreadPoolExecutor(num_workers) as pool:
            futures = [pool.submit(run_chain, label, chain) for label, chain in chains.items()]
            try:
                errors = [error for future in futures if (error := future.exception())]
            except BaseException:
                self.stop()
                raise
        # A stopped chain fails too: raise the error of the one that failed by itself.
        for error in sorted(errors, key=lambda error: isinstance(error, InterruptedError)):
            raise error

    def forget(self, step: Step) -> None:
        """Make a step run again, because its result was lost or is no longer sufficient."""
        self._marker(step).unlink(missing_ok=True)

    def wait(self, seconds: float, label: str, text: str = "") -> None:
        """Wait for something else, and show what.

        Raises:
            InterruptedError: the runner is stopped.
        """
        if text:
            self._show(label, text, "dim")
        if self._stopped.wait(seconds):
            raise InterruptedError(text)

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


def exit_code_of(runner: Runner, work: Callable[[], int | None]) -> int:
    """Do an example's work; return its exit code, with a message where it is an error or an interrupt."""
    try:
        return work() or 0
    except (StepError, PrealignError, OSError) as error:
        message = describe(error) if isinstance(error, PrealignError | OSError) else error
        print(f"error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        runner.stop()
        print("stopped; run the same command to continue from here", file=sys.stderr)
        return 130


def run_example(
    arguments: argparse.Namespace, work: Callable[[Runner], None], environment: Mapping[str, str] | None = None
) -> int:
    """Do an example's work in the root of the repository, say how long it took, and return the exit code.

    Args:
        arguments: with `output`, made relative to the repository if it lies in it, and `redo`.
        work: runs the steps.
        environment: variables added for every command.
    """
    arguments.output = from_repository(arguments.output.resolve())
    os.chdir(REPOSITORY)
    runner = Runner(arguments.output, Console(), environment or {}, redo=arguments.redo)

    def timed() -> None:
        work(runner)
        elapsed = format_seconds(time.monotonic() - runner.started)
        runner.console.print(f"Took {elapsed}.", highlight=False)

    return exit_code_of(runner, timed)


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
    with atomic_text_file(path, overwrite=True) as stream:
        stream.write(text)


def make_step(name: str, command: Sequence[object], outputs: Sequence[Path], *depends_on: Step, **options: Any) -> Step:
    """Make a step that runs a Python script of the repository."""
    words = (sys.executable, *map(str, command))
    return Step(name, words, tuple(outputs), depends_on, **options)


def make_bake(name: str, prefix: Path, command: Sequence[object], *before: Step) -> Step:
    """Make a step that bakes a dataset of the given prefix."""
    outputs = [Path(f"{prefix}_text_document{suffix}") for suffix in (".bin", ".idx", ".json")]
    words = ["tools/preprocess_codeswitch.py", "--append-eod", "--json-key", "text", "--output-prefix", prefix]
    # Whether there are files of switches, too, is known after the bake.
    return make_step(name, [*words, "--overwrite", *command], outputs, *before)


def make_training(
    name: str, configs: Sequence[Path], run: Path, options: Sequence[object], *before: Step, processes: int = 1
) -> Step:
    """Make a step that trains one stage through torchrun.

    Args:
        name: of the step.
        configs: YAML files, later ones win.
        run: the run's folder.
        options: of the command line, over the files.
        before: steps that made what it reads.
        processes: ranks, on this machine.
    """
    command: list[object] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command.append("pretrain_prealign.py")
    command += [word for path in configs for word in ("--config", path)]
    command += ["--training.run_path", run, *options]
    return make_step(name, command, [run], *before, inputs=tuple(configs), resumable=True)


def make_export(name: str, run: Path, export: Path, *before: Step) -> Step:
    """Make a step that exports a run to a Hugging Face folder."""
    command = ["tools/convert_checkpoint.py", "to-hf", "--checkpoint", run, "--output", export]
    return make_step(name, command, [export], *before)


def make_permutation(name: str, lexicon: Path, output: Path, ratio: float, *before: Step) -> Step:
    """Make a step that deals the translations of a share of a lexicon's words to other words."""
    command = ["examples/permute_lexicon.py", "--lexicon", lexicon, "--ratio", ratio, "--output", output]
    return make_step(name, command, [output], *before)


def last_tokens(metrics_path: Path) -> int:
    """Return the tokens a run has seen at its last record, word tokens counted."""
    lines = metrics_path.read_text(encoding="utf-8").splitlines()
    return max(int(json.loads(line)["tokens"]) for line in lines)


def from_repository(path: Path) -> Path:
    """Return an absolute path relative to the repository if it lies in it: commands run there, and read better."""
    return path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path


def count_cores() -> int:
    """Return the processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side_environment() -> dict[str, str]:
    """Return the variables of commands of which two run at once."""
    # One thread each: two trainings on two cores; idle threads of a larger pool would only wait for each other.
    return {**MALLOC_ENVIRONMENT, "OMP_NUM_THREADS": str(max(1, count_cores() // 2)), "TQDM_DISABLE": "1"}
