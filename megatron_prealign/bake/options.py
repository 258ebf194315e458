"""The options of a bake, and everything that can be wrong with them before anything is read."""

import shutil
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from megatron_prealign.bake.job import OnError, may_overwrite, slurm_logs
from megatron_prealign.codeswitch.compile_lexicon import TableOptions
from megatron_prealign.dataset.manifest import existing_files, manifest_path
from megatron_prealign.errors import DataError
from megatron_prealign.files import can_be_made
from megatron_prealign.text.frame import BosMode
from megatron_prealign.text.languages import language_problems
from megatron_prealign.text.spelling import fold_case
from megatron_prealign.text.tokenizer import Tokenizer

BackendChoice = Literal["auto", "reference", "gigatoken"]
ExecutorKind = Literal["local", "slurm", "ray"]


@dataclass(frozen=True, kw_only=True)
class BakeOptions:
    """What to bake."""

    input_paths: tuple[Path, ...]
    """Files, folders and globs, in the order they are baked in."""
    tokenizer_path: Path
    """tokenizer.json, a folder with one, or a SentencePiece .model."""
    output_prefix: Path
    """The dataset's files are <output_prefix>_<json_key>_document.*, or _sentence.* with sentence splitting."""
    json_key: str = "text"
    """Key of the text in JSON lines, or column of parquet files."""
    lexicon_paths: tuple[Path, ...] = ()
    """Dictionaries; merged."""
    source_language: str = "en"
    """Language of the corpus and of the dictionaries' source words."""
    target_language: str | None = None
    """Language of translations in dictionaries that do not name it."""
    codeswitch_ratio: float = 0.0
    """Probability in [0, 1] that a word that the lexicon covers is switched."""
    case_transfer: bool = True
    """Also match Capitalised and CAPITALS words and give their translations that form."""
    max_translations: int | None = None
    """Most translations per word and language to draw from, those of the largest weights; None for all."""
    stop_words_path: Path | None = None
    """Source words that are never switched, one per line; case does not matter."""
    max_rank: int = 0
    """The source language's most frequent words, by wordfreq, up to this rank are never switched."""
    language_weights: dict[str, float] = field(default_factory=dict)
    """Relative chance of a target language to be drawn; 1 where not named."""
    seed: int = 1
    """Seed of all draws."""
    append_eod: bool = False
    """End every non-empty document with the end-of-document token."""
    eod_token: str | None = None
    """Special token that ends documents; None for the tokenizer's eos_token."""
    bos: BosMode = "auto"
    """Begin documents with the tokenizer's begin-of-document token; auto: if the tokenizer adds it."""
    sentence_language: str | None = None
    """Make each sentence a sequence, found by Punkt's model of this name; None makes each document one."""
    backend: BackendChoice = "auto"
    """Encoder; auto: gigatoken where it is proved to give the reference's ids."""
    executor: ExecutorKind = "local"
    """What runs the tasks."""
    num_workers: int = 1
    """Processes of this machine, or tasks of the cluster."""
    cluster: dict[str, str] = field(default_factory=dict)
    """Settings of the Slurm or Ray jobs, by name."""
    on_error: OnError = "fail"
    """For lines without a usable text: end the bake, or count and skip them."""
    overwrite: bool = False
    """Replace an existing dataset and the work folder of an unfinished bake."""
    resume: bool = False
    """Continue an unfinished bake."""
    command: str = ""
    """The command line, for the manifest's provenance."""

    @property
    def dataset_prefix(self) -> Path:
        """Path of the dataset without `.bin`."""
        level = "sentence" if self.sentence_language else "document"
        return Path(f"{self.output_prefix}_{self.json_key}_{level}")

    @property
    def work_folder(self) -> Path:
        """Where a bake keeps its finished pieces; next to the outputs, so that renames stay in one file system."""
        return self.dataset_prefix.with_name(f".{self.dataset_prefix.name}.bake")

    @property
    def slurm_logs(self) -> Path:
        """Where the logs of a bake on Slurm are: its last job still writes there after the work folder is gone."""
        return slurm_logs(self.work_folder)


def table_options(options: BakeOptions) -> TableOptions:
    """Return how the lexicon is used, with the words that are never switched.

    Raises:
        DataError: If the stop list can't be read, or there are no word frequencies of the source language.
    """
    excluded: set[str] = set()
    if options.stop_words_path is not None:
        try:
            excluded.update(
                fold_case(options.stop_words_path.read_text(encoding="utf-8"), options.source_language).split()
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"--stop-words {options.stop_words_path}: can't be read ({error}); check the path"
            ) from None
    if options.max_rank > 0:
        try:
            import wordfreq  # optional, and slow to load

            frequent = wordfreq.top_n_list(options.source_language, options.max_rank)
            excluded.update(fold_case(word, options.source_language) for word in frequent)
        except ImportError:
            raise DataError("--max-rank: needs wordfreq; install megatron-prealign[data]") from None
        except LookupError:
            raise DataError(
                f"--max-rank: wordfreq does not know the language {options.source_language!r}; leave --max-rank out"
            ) from None
    return TableOptions(options.case_transfer, options.max_translations, frozenset(excluded), options.language_weights)


def option_problems(options: BakeOptions) -> list[str]:
    """Return what is wrong with options apart from input, tokenizer and lexicon."""
    problems = language_problems("--source-language", options.source_language)
    problems += language_problems("--target-language", options.target_language)
    if not 0.0 <= options.codeswitch_ratio <= 1.0:
        problems.append(f"--codeswitch-ratio {options.codeswitch_ratio}: must be in [0, 1]")
    if options.codeswitch_ratio > 0 and not options.lexicon_paths:
        problems.append(f"--codeswitch-ratio {options.codeswitch_ratio} needs a --lexicon; give one, or the ratio 0")
    if not options.json_key or "/" in options.json_key:
        problems.append(f"--json-key {options.json_key!r}: is part of file names, so it can't be empty or contain /")
    if options.max_translations is not None and options.max_translations < 1:
        problems.append(f"--max-translations {options.max_translations}: must be at least 1")
    if not all(weight > 0 for weight in options.language_weights.values()):
        problems.append(
            f"--language-weights {options.language_weights}: must be above 0; leave out the dictionary instead"
        )
    if options.max_rank < 0:
        problems.append(f"--max-rank {options.max_rank}: must be at least 0")
    if options.cluster and options.executor == "local":
        problems.append("--cluster: needs --executor slurm or ray")
    if options.num_workers < 1:
        problems.append(f"--workers {options.num_workers}: must be at least 1")
    if options.resume and options.overwrite:
        problems.append("--resume and --overwrite: the first continues a bake, the second starts again; pass one")
    return [*problems, *_executor_problems(options), *_output_problems(options)]


def special_token_problems(options: BakeOptions, tokenizer: Tokenizer) -> list[str]:
    """Return which requested tokens around documents the tokenizer lacks."""
    problems = []
    if options.append_eod and tokenizer.eod_id is None:
        problems.append(
            f"{tokenizer.path}: the tokenizer has no end-of-document token to append; name one of its special tokens "
            "with --eod-token, set eos_token in a tokenizer_config.json next to it, or leave out --append-eod"
        )
    if options.eod_token is not None and not options.append_eod:
        problems.append(f"--eod-token {options.eod_token}: without --append-eod nothing ends a document; pass both")
    if options.bos == "always" and tokenizer.bos_id is None:
        problems.append(
            f"{tokenizer.path}: the tokenizer has no begin-of-document token; set bos_token in a "
            "tokenizer_config.json next to it, or leave out --bos always"
        )
    return problems


def _executor_problems(options: BakeOptions) -> list[str]:
    needs = {"local": (), "slurm": ("datatrove",), "ray": ("datatrove", "ray")}[options.executor]
    missing = [name for name in needs if find_spec(name) is None]
    problems = []
    if missing:
        names = " and ".join(missing)
        problems.append(f"--executor {options.executor}: needs {names}; install megatron-prealign[cluster]")
    if options.executor == "slurm" and "partition" not in options.cluster:
        problems.append("--executor slurm: give the partition with --cluster partition=NAME")
    if options.executor == "slurm" and shutil.which("sbatch") is None:
        problems.append("--executor slurm: sbatch not found; run this on a machine that can submit jobs")
    return problems


def may_have_ended(options: BakeOptions) -> bool:
    """Return whether --resume finds a dataset but no work folder: the bake may be complete already."""
    return options.resume and not options.work_folder.exists() and manifest_path(options.dataset_prefix).exists()


def _output_problems(options: BakeOptions) -> list[str]:
    problems = []
    prefix = options.dataset_prefix
    existing = existing_files(prefix)
    is_own = options.resume and may_overwrite(options.work_folder)
    if existing and not options.overwrite and not is_own and not may_have_ended(options):
        names = ", ".join(map(str, existing))
        problems.append(f"{names}: already exists; choose another --output-prefix or pass --overwrite")
    if options.work_folder.exists() and not (options.overwrite or options.resume):
        problems.append(
            f"{options.work_folder}: belongs to an unfinished bake; pass --resume to continue, or --overwrite"
        )
    if options.output_prefix.is_dir():
        problems.append(
            f"--output-prefix {options.output_prefix}: is a folder; give a prefix for the files in it, such as "
            f"{options.output_prefix / options.source_language}"
        )
    if not can_be_made(prefix):
        problems.append(f"{prefix.parent}: not writable; choose another --output-prefix")
    return problems
