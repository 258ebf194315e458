"""A bake's work folder: all that a task on any machine needs to know, and the shards that are finished.

    job.json            settings and pieces
    table/*.npy         the lexicon compiled for the tokenizer
    shards/000000.*     what the first piece became; its .json is written last and marks it finished

A shard is a function of its piece and the settings, so any worker may bake it, any number of times.
"""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from megatron_prealign import __version__
from megatron_prealign.codeswitch.codeswitch import SwitchCounts
from megatron_prealign.codeswitch.switch_table import SwitchTable
from megatron_prealign.codeswitch.word_forms import WordEncoder
from megatron_prealign.dataset.indexed import IndexedWriter, WrittenFile, optimal_dtype
from megatron_prealign.dataset.manifest import DATA_SUFFIXES
from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_text_file
from megatron_prealign.text.backends import Backend
from megatron_prealign.text.files import Piece

OnError = Literal["fail", "skip"]

_MAX_EXAMPLES = 20


@dataclass(frozen=True)
class EncodingSettings:
    """All that the ids of a text depend on."""

    tokenizer_path: str
    tokenizer_fingerprint: str
    backend: Backend
    json_key: str
    bos_id: int | None
    eod_id: int | None
    sentence_language: str | None


@dataclass(frozen=True)
class JobSettings(EncodingSettings):
    """All that the bytes of a shard depend on besides its piece, and what to do about unusable lines."""

    lexicon_fingerprint: str | None
    lexicon_entries: int
    ratio: float
    seed: int
    table_options: dict[str, Any]
    """Other dependencies of the compiled lexicon."""
    on_error: OnError = "fail"

    @property
    def encoding(self) -> EncodingSettings:
        """The settings that the ids depend on."""
        return EncodingSettings(**{field.name: getattr(self, field.name) for field in fields(EncodingSettings)})


@dataclass(frozen=True)
class Job:
    """A work folder in use."""

    folder: Path
    settings: JobSettings
    pieces: tuple[Piece, ...]

    @classmethod
    def create(
        cls,
        folder: Path,
        settings: JobSettings,
        pieces: Sequence[Piece],
        table: SwitchTable,
        *,
        resume: bool,
        overwrite: bool,
    ) -> Self:
        """Fill a work folder, or continue an existing one if `resume`.

        `overwrite`, whether the bake may replace a dataset, is remembered for a bake that continues.

        Raises:
            DataError: If the existing folder has another input or other options.
        """
        job = cls(folder, settings, tuple(pieces))
        if resume and (folder / "job.json").is_file():
            job._check_unchanged()
            overwrite = may_overwrite(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            job.shard_prefix(0).parent.mkdir(parents=True)
            table.save(folder / "table")
        job._write(overwrite)
        return job

    def may_replace(self) -> None:
        """Record that what is under the final names from now on is this bake's, or may be replaced by it."""
        self._write(overwrite=True)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the work folder that `create` made."""
        description = _read_description(folder)
        pieces = tuple(Piece(Path(path), *rest) for path, *rest, _ in description["pieces"])
        return cls(folder, JobSettings(**description["settings"], on_error=description["on_error"]), pieces)

    def table(self, encode: WordEncoder) -> SwitchTable:
        """Return the compiled lexicon; its arrays are memory-mapped, so the workers of a machine share them."""
        return SwitchTable.load(self.folder / "table", encode)

    def shard_prefix(self, number: int) -> Path:
        """Return the path of a piece's shard without `.bin`."""
        return self.folder / "shards" / f"{number:06d}"

    def mark_path(self, number: int) -> Path:
        """Return the file whose presence marks a finished piece; it holds the counts."""
        return Path(f"{self.shard_prefix(number)}.json")

    def unfinished(self) -> list[int]:
        """Return the pieces that are not baked yet."""
        finished = set(os.listdir(self.shard_prefix(0).parent))
        return [number for number in range(len(self.pieces)) if self.mark_path(number).name not in finished]

    def mark(self, number: int) -> dict[str, Any]:
        """Return the counts of a finished piece."""
        counts: dict[str, Any] = json.loads(self.mark_path(number).read_text(encoding="utf-8"))
        return counts

    def problems_path(self, number: int) -> Path:
        """Return the file for the problems of a piece, from tasks that can't raise an error where the bake began."""
        return Path(f"{self.shard_prefix(number)}.problems")

    def _description(self) -> dict[str, Any]:
        settings = asdict(self.settings)
        del settings["on_error"]  # finished pieces had no unusable line, or were asked to skip them
        modified = {path: path.stat().st_mtime_ns for path in {piece.path for piece in self.pieces}}
        pieces = [[str(piece.path), piece.start, piece.stop, piece.size, modified[piece.path]] for piece in self.pieces]
        return {"settings": settings, "pieces": pieces, "table": [__version__, np.__version__.partition(".")[0]]}

    def _write(self, overwrite: bool) -> None:
        more = {"on_error": self.settings.on_error, "overwrite": overwrite}
        with atomic_text_file(self.folder / "job.json", overwrite=True) as stream:
            json.dump(self._description() | more, stream, indent=2)

    def _check_unchanged(self) -> None:
        before = _read_description(self.folder)
        now = json.loads(json.dumps(self._description()))
        changed = [name for name, value in now["settings"].items() if before["settings"].get(name) != value]
        if before["pieces"] != now["pieces"]:
            changed.append("the input files")
        if before["table"] != now["table"]:
            changed.append("the version of this code")
        if changed:
            raise DataError(
                f"--resume: {self.folder} was started with other settings ({', '.join(changed)} changed); use the "
                "original settings, or start again with --overwrite"
            )


def slurm_logs(work_folder: Path) -> Path:
    """Return where the logs of a bake on Slurm are: its last job still writes there after the work folder is gone."""
    return work_folder.absolute().with_name(f"{work_folder.name}-logs")


class ShardMerger:
    """Appends shards to one dataset in the order of the input, while later pieces are still being baked.

    The data files have a temporary prefix; those of a killed run are written again.
    """

    def __init__(self, job: Job, staged: Path, vocab_size: int) -> None:
        """Create the files with the prefix `staged`.

        Shards that are finished already are appended together with the first one that is added.
        """
        self._job = job
        self.staged = staged
        self._ready = set(range(len(job.pieces))) - set(job.unfinished())
        self._num_appended = 0
        self._counts = SwitchCounts()
        self._num_skipped = 0
        self.skipped_examples: list[str] = []
        """What was wrong with some of the lines that were left out."""
        paths = {suffix: Path(f"{staged}{suffix}") for suffix in DATA_SUFFIXES}
        dtype = optimal_dtype(vocab_size)
        with ExitStack() as stack:
            self._tokens = stack.enter_context(IndexedWriter(paths[".bin"], paths[".idx"], dtype, vocab_size - 1))
            self._switches = stack.enter_context(IndexedWriter(paths[".switch.bin"], paths[".switch.idx"], np.int32))
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def add(self, number: int) -> None:
        """Take a finished piece, and append all shards whose turn it is."""
        self._ready.add(number)
        self._append_ready()

    def close(self) -> tuple[dict[str, WrittenFile], dict[str, Any]]:
        """Append the remaining shards and write the indexes; return the files by suffix, and their counts."""
        self._ready.update(range(len(self._job.pieces)))
        self._append_ready()
        tokens, counts = self._tokens, self._counts
        files = dict(zip((".bin", ".idx"), tokens.close(), strict=True))
        if counts.switched:
            files |= dict(zip((".switch.bin", ".switch.idx"), self._switches.close(), strict=True))
        sizes = {"documents": tokens.num_documents, "sequences": tokens.num_sequences, "tokens": tokens.num_tokens}
        return files, sizes | {"skipped": self._num_skipped} | asdict(counts)

    def _append_ready(self) -> None:
        while self._num_appended in self._ready:
            number = self._num_appended
            mark = self._job.mark(number)
            self._tokens.append(self._job.shard_prefix(number))
            self._switches.append(f"{self._job.shard_prefix(number)}.switch")
            self._num_skipped += mark["skipped"]
            self.skipped_examples += mark["examples"][: _MAX_EXAMPLES - len(self.skipped_examples)]
            self._counts.add(SwitchCounts(**{name: mark[name] for name in asdict(self._counts)}))
            self._num_appended += 1


def may_overwrite(folder: Path) -> bool:
    """Return whether the bake that made a work folder was allowed to replace a dataset."""
    return (folder / "job.json").is_file() and bool(_read_description(folder)["overwrite"])


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "job.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); start again with --overwrite") from None
    if not isinstance(description, dict) or not {"settings", "pieces", "overwrite"} <= description.keys():
        raise DataError(f"{path}: not the description of a bake; start again with --overwrite")
    return description
