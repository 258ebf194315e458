"""The bake: corpus + tokenizer + lexicon → an indexed dataset with switch records and a manifest.

The input is cut into pieces, each piece is baked to a shard in a work folder, and the shards are appended in the order
of the input. The data files and the manifest's content are a function of the input and the options alone, whatever the
workers, executors and interruptions. Nothing has its final name before everything is written; the manifest comes last.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from megatron_prealign.bake.executors import LocalWorkers
from megatron_prealign.bake.job import EncodingSettings, Job, JobSettings, ShardMerger
from megatron_prealign.bake.manifest import finished_manifest, make_manifest, publish
from megatron_prealign.bake.options import (
    BakeOptions,
    may_have_ended,
    option_problems,
    special_token_problems,
    table_options,
)
from megatron_prealign.bake.piece import load_splitter
from megatron_prealign.codeswitch import compiled
from megatron_prealign.codeswitch.compile_lexicon import TableOptions, compile_lexicon
from megatron_prealign.codeswitch.switch_table import SwitchTable
from megatron_prealign.dataset.manifest import Manifest
from megatron_prealign.errors import DataError, PrealignError
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.text.backends import Backend, make_encoder, why_not_gigatoken
from megatron_prealign.text.files import Piece, cut_into_pieces, expand_inputs
from megatron_prealign.text.frame import document_frame
from megatron_prealign.text.languages import script_fits
from megatron_prealign.text.ragged import paused_collector
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer

_SCRIPT_SAMPLE = 1000
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class _Materials:
    """What checking the options loaded."""

    pieces: list[Piece]
    tokenizer: Tokenizer
    table_options: TableOptions


def bake(
    options: BakeOptions, show_progress: bool = True, log: Callable[[str], None] = lambda message: None
) -> Manifest:
    """Bake a dataset and return its manifest.

    Args:
        options: What to bake.
        show_progress: Whether to show a progress bar on stderr.
        log: Receives lines about decisions on the way.

    Raises:
        DataError: Every problem of the options at once, before anything is written; or a bad line of the corpus, a
            corpus without text, a dead worker. Then nothing is under the final names, and the finished pieces remain in
            the work folder for `resume`.
    """
    started = time.time()
    materials = _prepare(options, log)
    # Ray has its own workers, and an existing dataset is only compared.
    num_workers = 1 if options.executor == "ray" or may_have_ended(options) else options.num_workers
    with LocalWorkers(num_workers, len(materials.pieces), materials.tokenizer) as workers:
        encoding = _encoding(options, materials, log)
        if not options.resume:
            workers.encode_ahead(encoding, materials.pieces)
        with paused_collector():
            lexicon = _read_lexicon(options)
            _check_script(lexicon, log)
            settings = _settings(options, materials, encoding, lexicon)
            if may_have_ended(options):
                manifest = finished_manifest(options.dataset_prefix, materials.tokenizer, settings, materials.pieces)
                # Left if the bake was killed after its last file was published.
                shutil.rmtree(_done_folder(options.work_folder), ignore_errors=True)
                log(f"{options.dataset_prefix} is already complete")
                return manifest
            table = _compile(options, materials, encoding.backend, lexicon)
        options.dataset_prefix.parent.mkdir(parents=True, exist_ok=True)
        with _locked(options.work_folder):
            shutil.rmtree(_done_folder(options.work_folder), ignore_errors=True)
            job = _open_job(options, materials, settings, table)
            del lexicon, table  # hundreds of megabytes, now in the job's folder for the workers
            try:
                staged = job.folder / options.dataset_prefix.name
                with ShardMerger(job, staged, materials.tokenizer.vocab_size) as shards:
                    _run_tasks(options, job, workers, shards, show_progress)
                    return _finish(options, materials.tokenizer, job, shards, started)
            except BaseException as error:
                left = len(job.unfinished())
                if left == len(job.pieces) or (not left and isinstance(error, DataError)):
                    shutil.rmtree(job.folder)  # nothing to continue from
                else:
                    finished = f"{len(job.pieces) - left} of {len(job.pieces)} pieces are finished"
                    log(f"{finished}; continue with --resume")
                raise


def _prepare(options: BakeOptions, log: Callable[[str], None]) -> _Materials:
    paths, problems, notes = expand_inputs(options.input_paths, options.json_key)
    problems += option_problems(options)
    tokenizer = None
    with _collected(problems):
        tokenizer = load_tokenizer(options.tokenizer_path, options.eod_token)
    if tokenizer:
        problems += special_token_problems(options, tokenizer)
    if options.sentence_language:
        with _collected(problems):
            load_splitter(options.sentence_language)
    with _collected(problems):
        how = table_options(options)
    if problems or tokenizer is None:
        with _collected(problems):
            _read_lexicon(options)
        raise DataError(problems)
    if options.codeswitch_ratio > 0 and compiled is None:
        notes.append(
            "the search for words is not compiled, or of an older version, so switching takes twice as long: install a "
            "C compiler and Python's headers (Debian: gcc python3-dev) and then this package again (no action needed)"
        )
    for note in notes:
        log(note)
    return _Materials(cut_into_pieces(paths), tokenizer, how)


def _encoding(options: BakeOptions, materials: _Materials, log: Callable[[str], None]) -> EncodingSettings:
    tokenizer = materials.tokenizer
    frame = document_frame(tokenizer, options.bos)
    return EncodingSettings(
        tokenizer_path=str(tokenizer.path.absolute()),
        tokenizer_fingerprint=tokenizer.fingerprint,
        backend=_choose_backend(options, tokenizer, log),
        json_key=options.json_key,
        bos_id=frame.bos_id,
        eod_id=frame.eod_id if options.append_eod else None,
        sentence_language=options.sentence_language,
    )


def _read_lexicon(options: BakeOptions) -> Lexicon:
    if not options.lexicon_paths:
        return Lexicon(options.source_language, ())
    lexicon = read_lexicon(options.lexicon_paths, options.source_language, options.target_language)
    unknown = sorted(options.language_weights.keys() - set(lexicon.languages))
    if unknown:
        raise DataError(
            f"--language-weights {', '.join(unknown)}: no translations in {_join(options.lexicon_paths)}; it has "
            f"{', '.join(lexicon.languages)}"
        )
    return lexicon


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except PrealignError as error:
        problems += error.problems


@contextmanager
def _locked(work_folder: Path) -> Iterator[None]:
    """Keep other bakes of this machine away from a work folder; the lock ends with the process."""
    with Path(f"{work_folder}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{work_folder}: another bake uses this folder; wait for it or stop it") from None
        try:
            yield
        finally:
            Path(stream.name).unlink()


def _settings(options: BakeOptions, materials: _Materials, encoding: EncodingSettings, lexicon: Lexicon) -> JobSettings:
    return JobSettings(
        **asdict(encoding),
        lexicon_fingerprint=lexicon.fingerprint if options.lexicon_paths else None,
        lexicon_entries=len(lexicon),
        ratio=options.codeswitch_ratio,
        seed=options.seed,
        table_options=materials.table_options.describe(),
        on_error=options.on_error,
    )


def _open_job(options: BakeOptions, materials: _Materials, settings: JobSettings, table: SwitchTable) -> Job:
    how = {"resume": options.resume, "overwrite": options.overwrite}
    return Job.create(options.work_folder, settings, materials.pieces, table, **how)


def _compile(options: BakeOptions, materials: _Materials, backend: Backend, lexicon: Lexicon) -> SwitchTable:
    encoder = make_encoder(materials.tokenizer, backend, is_parallel=False)
    table = compile_lexicon(lexicon, materials.tokenizer, materials.table_options, encoder)
    if options.codeswitch_ratio > 0 and not table.num_entries:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in table.skipped.items() if count)
        raise DataError(f"{_join(options.lexicon_paths)}: no entry can be used with this tokenizer ({reasons})")
    return table


def _check_script(lexicon: Lexicon, log: Callable[[str], None]) -> None:
    """Say if most source words are not of the source language: its rules then find few of them."""
    # A large lexicon would take longer than all else that comes before the workers.
    sample = lexicon.entries[:: max(1, len(lexicon) // _SCRIPT_SAMPLE)]
    num_foreign = sum(not script_fits(entry.word, lexicon.source_language) for entry in sample)
    if 2 * num_foreign > len(sample):
        log(
            f"warning: {num_foreign:,} of {len(sample):,} source words of the lexicon are in another script than that "
            f"of --source-language {lexicon.source_language}; name their language, or few are found"
        )


def _choose_backend(options: BakeOptions, tokenizer: Tokenizer, log: Callable[[str], None]) -> Backend:
    if options.backend == "reference":
        return "reference"
    reason = why_not_gigatoken(tokenizer)
    if reason is None:
        log("encoding with gigatoken: its ids equal the tokenizer's own on a fixed probe of all scripts")
        return "gigatoken"
    if options.backend == "gigatoken":
        raise DataError(f"--backend gigatoken: {reason}; use auto or reference")
    log(f"encoding with the tokenizer's own library; the faster gigatoken can't be used: {reason} (no action needed)")
    return "reference"


class _Progress:
    """Shows documents, MB/s, tokens/s and the remaining time: a bar on a terminal, occasional lines in a log."""

    def __init__(self, total_bytes: int, show: bool) -> None:
        self._console = Console(stderr=True)
        self._total = total_bytes
        self._show = show
        self._start = self._last_line = time.monotonic()
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.bar = Progress(
            *columns, console=self._console, transient=True, disable=not (show and self._console.is_terminal)
        )
        self._task = self.bar.add_task("starting", total=total_bytes)

    def update(self, consumed: int, num_documents: int, num_tokens: int) -> None:
        now = time.monotonic()
        seconds = max(now - self._start, 1e-9)
        speed = (
            f"{num_documents:,} documents  {consumed / seconds / 1e6:.1f} MB/s  {num_tokens / seconds:,.0f} tokens/s"
        )
        self.bar.update(self._task, completed=consumed, description=speed)
        if self._show and self.bar.disable and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            share = consumed / max(self._total, 1)
            left = seconds * (1 - share) / max(share, 1e-9)
            self._console.print(f"bake: {share:.0%}  {speed}  {left:,.0f} s left", highlight=False)


def _run_tasks(options: BakeOptions, job: Job, workers: LocalWorkers, shards: ShardMerger, show_progress: bool) -> None:
    progress = _Progress(sum(piece.size for piece in job.pieces), show_progress)
    with progress.bar:
        documents = tokens = consumed = 0

        def count(number: int) -> None:
            nonlocal documents, tokens, consumed
            mark = job.mark(number)
            documents, tokens = documents + mark["documents"], tokens + mark["tokens"]
            consumed += job.pieces[number].size
            progress.update(consumed, documents, tokens)
            shards.add(number)

        if options.executor == "ray":
            from megatron_prealign.bake.clusters import bake_on_ray  # deferred: datatrove and ray are optional

            bake_on_ray(job, options.num_workers, options.cluster)
        else:
            workers.bake(job, count)


def submit(options: BakeOptions, log: Callable[[str], None]) -> str:
    """Submit a bake to Slurm and return the id of the job that finishes it.

    Raises:
        DataError: Every problem of the options at once, before anything is written.
    """
    materials = _prepare(options, log)
    from megatron_prealign.bake.clusters import submit_to_slurm  # deferred: datatrove is optional

    encoding = _encoding(options, materials, log)
    lexicon = _read_lexicon(options)
    _check_script(lexicon, log)
    table = _compile(options, materials, encoding.backend, lexicon)
    options.dataset_prefix.parent.mkdir(parents=True, exist_ok=True)
    job = _open_job(options, materials, _settings(options, materials, encoding, lexicon), table)
    return submit_to_slurm(job, options.num_workers, options.cluster, Finish(options))


class Finish:
    """The last job of a bake on a cluster: bakes what the tasks could not, and merges the shards to one dataset."""

    def __init__(self, options: BakeOptions) -> None:
        self._options = replace(options, executor="local", cluster={}, resume=True, overwrite=False, num_workers=1)

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Run with the arguments of a datatrove step."""
        bake(self._options, show_progress=False, log=print)


def _finish(options: BakeOptions, tokenizer: Tokenizer, job: Job, shards: ShardMerger, started: float) -> Manifest:
    """Publish the dataset of all shards, and remove the work folder."""
    files, counts = shards.close()
    if not counts["tokens"]:
        held = f"{counts['documents']} documents, all empty" if counts["documents"] else "no document"
        raise DataError(f"{_join(options.input_paths)}: contains {held}; give a corpus with text")
    manifest = make_manifest(options, tokenizer, job, files, counts, started)
    manifest.provenance["skipped_examples"] = shards.skipped_examples
    job.may_replace()
    publish(shards.staged, options.dataset_prefix, manifest)
    # A half-removed folder would look like an unfinished bake.
    os.replace(job.folder, _done_folder(job.folder))
    shutil.rmtree(_done_folder(job.folder))
    return manifest


def _done_folder(work_folder: Path) -> Path:
    return work_folder.with_name(f"{work_folder.name}-done")


def _join(paths: tuple[Path, ...] | list[Path]) -> str:
    return ", ".join(map(str, paths))
