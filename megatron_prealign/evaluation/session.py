"""Run tasks one after the other and save finished ones, so that a killed evaluation can be resumed.

Until all tasks are done, results are in `<output>.partial`, rewritten after each task; at the end it is renamed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megatron_prealign import __version__
from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder, open_folder
from megatron_prealign.evaluation.frame import Progress
from megatron_prealign.evaluation.task_list import Task
from megatron_prealign.files import can_be_made, write_atomically

ShowProgress = Callable[[str], AbstractContextManager[Progress]]
"""Returns the progress display of a task, from the task's name."""
Summarise = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Returns further entries of the output, from its content so far."""


@dataclass(frozen=True)
class Session:
    """The evaluation of one folder."""

    model_path: Path
    """Hugging Face folder."""
    device: str
    """cpu or cuda."""
    output: Path
    """JSON file of the results."""
    show_progress: ShowProgress
    eod_token: str | None = None
    """Special token that ends documents; None = the tokenizer's eos_token."""

    @property
    def partial(self) -> Path:
        """Return the file of finished tasks while others are missing."""
        return self.output.with_name(self.output.name + ".partial")

    @cached_property
    def folder(self) -> ModelFolder:
        """Return the opened folder; it is loaded when the first task needs it."""
        return open_folder(self.model_path, self.device, self.eod_token)

    def output_problems(self, *, resume: bool, overwrite: bool) -> list[str]:
        """Return why the results can't be written."""
        if self.output.is_dir() or not can_be_made(self.output):
            return [f"{self.output}: can't be written: name a file in a writable folder"]
        if resume and overwrite:
            return ["--resume keeps existing results, --overwrite replaces them: give only one"]
        if resume or overwrite:
            return []
        if self.output.exists():
            return [
                f"{self.output} exists: name another file, or pass --overwrite to replace it, --resume to add to it"
            ]
        if self.partial.exists():
            return [f"{self.partial} holds finished tasks: pass --resume to continue, or --overwrite to start over"]
        return []

    def run(self, tasks: Iterable[Task], summarise: Summarise, *, resume: bool) -> dict[str, Any]:
        """Run tasks, write the output and return its content.

        Args:
            tasks: checked tasks with unique names.
            summarise: adds entries to model, taps, tasks and versions.
            resume: keep the results in the output or its partial file, except tasks whose options changed.

        Raises:
            PrealignError: a task is impossible with this model, or the existing results are of another model.
        """
        model = {"model": self.model_path.resolve().name, "model_sha256": hash_folder(self.model_path)}
        if self.eod_token is not None:
            model["eod_token"] = self.eod_token
        earlier = self._earlier(model) if resume else {}
        described = earlier or {"taps": self.folder.taps, "window": self.folder.window}
        self.output.parent.mkdir(parents=True, exist_ok=True)
        entries: dict[str, Any] = dict(earlier.get("tasks", {}))
        facts = {name: described[name] for name in ("taps", "window")}
        results = model | facts | {"tasks": entries, "versions": _versions()}
        for task in tasks:
            identity = {"evaluation": task.kind, "options": task.options_as_json()}
            if not identity.items() <= entries.get(task.name, {}).items():
                entries[task.name] = identity | self._run(task)
                try:
                    _write(self.partial, results)
                except (TypeError, ValueError) as error:
                    raise DataError(
                        f"{task.name}: {task.kind} returned a value that JSON can't hold ({error}); "
                        "let it return numbers, strings, lists and dicts"
                    ) from None
        results |= summarise(results)
        _write(self.partial, results)
        self.partial.replace(self.output)
        return results

    def _run(self, task: Task) -> dict[str, Any]:
        folder = self.folder
        started = time.monotonic()
        with self.show_progress(task.name) as progress:
            results = task.evaluation.run(folder, task.options, progress)
        return {"seconds": round(time.monotonic() - started, 2), "results": results}

    def _earlier(self, model: Mapping[str, str]) -> dict[str, Any]:
        """Return the existing results, of the partial file if there is one; empty if there are none."""
        path = self.partial if self.partial.exists() else self.output
        if not path.exists():
            return {}
        try:
            earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            is_same = all(earlier.get(name) == model.get(name) for name in ("model_sha256", "eod_token"))
            _ = earlier["taps"], earlier["window"], [entry["results"] for entry in earlier["tasks"].values()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: not results of an evaluation ({error!r}); pass --overwrite to start over"
            ) from None
        if not is_same:
            raise DataError(f"{path}: results of another model than {model['model']}; pass --overwrite to start over")
        return earlier


def hash_folder(path: Path) -> str:
    """Return one SHA-256 (hex) of a folder's configuration, tokenizer and weights."""
    names = sorted(
        file.name
        for pattern in ("config.json", "*token*", "*.safetensors")
        for file in path.glob(pattern)
        if file.is_file()
    )
    digest = hashlib.sha256()
    for name in names:
        with (path / name).open("rb") as stream:
            digest.update(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {"megatron_prealign": __version__} | {name: version(name) for name in ("torch", "transformers")}


def _write(path: Path, results: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
