r"""Make English-Clone: a second language of identical structure, to measure cross-lingual transfer with.

    python examples/paper/make_english_clone.py --tokenizer tok/ --output-tokenizer clone_tok/ \
        --input english.jsonl --output-text clone.jsonl \
        --output-lexicon en-clone.tsv --held-out-ratio 0.2 --output-held-out-lexicon held-out.tsv

Every part may be made alone. Nothing is written unless all of it succeeds.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import ConfigError, DataError, Problems
from megatron_prealign.files import atomic_folder, atomic_text_file, output_problems
from megatron_prealign.lexicon import Lexicon
from megatron_prealign.text.documents import Document, read_documents

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.paper.clone import clone_ids, clone_lexicon, clone_tokenizer, count_words, frequent_words, shared_ids
from examples.paper.clone_characters import clone_text, find_clone_character


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    group = parser.add_argument_group("tokenizer")
    group.add_argument(
        "--tokenizer", type=path_argument, help="byte-level BPE tokenizer.json, or the folder that holds it"
    )
    group.add_argument("--output-tokenizer", type=path_argument, help="folder for the cloned tokenizer")
    group.add_argument(
        "--verify-documents",
        type=int,
        default=1000,
        help="documents of --input whose ids are compared with the clone's",
    )
    group = parser.add_argument_group("text")
    group.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="corpora: .jsonl, or plain text with a document a line",
    )
    group.add_argument("--json-key", default="text", help="key of the text in .jsonl files")
    group.add_argument(
        "--output-text", type=path_argument, help=".jsonl file for the clone of --input; other keys are kept"
    )
    group = parser.add_argument_group("lexicon")
    group.add_argument(
        "--lexicon-input",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="corpora that the words come from; --input where not given",
    )
    group.add_argument(
        "--output-lexicon", type=path_argument, help="TSV file for the words and their clones, the most frequent first"
    )
    group.add_argument("--min-count", type=int, default=5, help="leave out words with fewer occurrences")
    group.add_argument("--max-words", type=int, help="keep that many of the most frequent words; all where not given")
    group.add_argument("--held-out-ratio", type=float, default=0.0, help="share of words to hold out, in [0, 1)")
    group.add_argument("--output-held-out-lexicon", type=path_argument, help="TSV file of the held-out words")
    group.add_argument("--seed", type=int, default=1, help="seed of the choice of held-out words")
    group.add_argument("--source-language", default="en", help="language of the base text")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    _check_arguments(arguments)
    _run(arguments, Console(stderr=True))
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse impossible options before anything is read.

    Raises:
        ConfigError: contradictory options.
        DataError: outputs that exist, or whose folder does not.
    """
    outputs = [arguments.output_tokenizer, arguments.output_text, arguments.output_lexicon]
    given = [path for path in (*outputs, arguments.output_held_out_lexicon) if path]
    rules = [
        (not any(outputs), "nothing to make; give --output-tokenizer, --output-text or --output-lexicon"),
        (arguments.output_tokenizer and not arguments.tokenizer, "--output-tokenizer needs --tokenizer"),
        (arguments.output_text and not arguments.input, "--output-text needs --input"),
        (
            arguments.output_lexicon and not (arguments.input or arguments.lexicon_input),
            "--output-lexicon needs --lexicon-input or --input",
        ),
        (len({path.resolve() for path in given}) != len(given), "two outputs have the same name"),
        (
            arguments.min_count < 1 or (arguments.max_words is not None and arguments.max_words < 1),
            "--min-count and --max-words must be at least 1",
        ),
        (
            not 0.0 <= arguments.held_out_ratio < 1.0,
            f"--held-out-ratio is {arguments.held_out_ratio}; give a number in [0, 1)",
        ),
        (
            (arguments.held_out_ratio > 0) != (arguments.output_held_out_lexicon is not None),
            "--held-out-ratio above 0 and --output-held-out-lexicon belong together",
        ),
        (
            arguments.output_held_out_lexicon and not arguments.output_lexicon,
            "--output-held-out-lexicon needs --output-lexicon",
        ),
    ]
    if problems := [message for broken, message in rules if broken]:
        raise ConfigError(problems)
    if problems := [problem for path in given for problem in output_problems(path, arguments.overwrite)]:
        raise DataError(problems)


def _run(arguments: argparse.Namespace, console: Console) -> None:
    """Make all parts; they appear together when the last one is complete."""
    clone = _load_and_clone(arguments.tokenizer) if arguments.tokenizer else None
    with ExitStack() as outputs:
        if clone and arguments.output_tokenizer:
            folder = outputs.enter_context(atomic_folder(arguments.output_tokenizer, arguments.overwrite))
            clone.write(folder)
        if arguments.input and (clone or arguments.output_text):
            stream = None
            if arguments.output_text:
                stream = outputs.enter_context(atomic_text_file(arguments.output_text, arguments.overwrite))
            _clone_corpus(arguments, clone, stream, console)
        if arguments.output_lexicon:
            train, held_out = _make_lexicons(arguments, console)
            train.write_tsv(arguments.output_lexicon, arguments.overwrite)
            if held_out:
                held_out.write_tsv(arguments.output_held_out_lexicon, arguments.overwrite)
    if clone:
        console.print(f"tokenizer: {clone.size} + {clone.size} ids, of which {len(clone.shared)} are shared")


@dataclass
class _Clone:
    """A base tokenizer and its clone, with what comparing their ids has shown."""

    base: dict[str, Any]
    cloned: dict[str, Any]
    settings: dict[str, object]
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.size = len(self.cloned["model"]["vocab"]) // 2
        self.shared = shared_ids(self.base)
        self._encoders = [Tokenizer.from_str(json.dumps(content)) for content in (self.base, self.cloned)]
        for encoder in self._encoders:
            encoder.encode_special_tokens = True

    def write(self, folder: Path) -> None:
        """Write the cloned tokenizer for transformers."""
        from megatron_prealign.text.tokenizer_training import write_tokenizer_folder

        write_tokenizer_folder(folder, json.dumps(self.cloned, ensure_ascii=False, indent=2), self.settings)

    def verify(self, document: Document, cloned: str) -> None:
        """Compare the ids of a document with those of its clone.

        Raises:
            DataError: they differ otherwise than by the size of the base vocabulary.
        """
        ids, ids_of_clone = (
            encoder.encode(text, add_special_tokens=False).ids
            for encoder, text in zip(self._encoders, (document.text, cloned), strict=True)
        )
        if clone_ids(ids, self.shared, self.size) != ids_of_clone:
            raise DataError(f"{document.path}:{document.line}: the clone's ids differ; the tokenizer can't be cloned")
        self.counts["documents"] += 1
        self.counts["tokens"] += len(ids)
        self.counts["shared"] += sum(index in self.shared for index in ids)


def _load_and_clone(path: Path) -> _Clone:
    """Read a tokenizer.json with its settings and clone it.

    Raises:
        DataError: it is missing, no tokenizer.json, or can't be cloned.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    settings_file = file.parent / "tokenizer_config.json"
    try:
        base = json.loads(file.read_text(encoding="utf-8"))
        settings = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.exists() else None
        Tokenizer.from_str(json.dumps(base))
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); give a tokenizer.json or its folder") from error
    except Exception as error:  # tokenizers raises bare Exception for a file it does not understand
        raise DataError(f"{file}: no tokenizer.json ({error}); only byte-level BPE can be cloned") from error
    if settings is None:
        special = [token["content"] for token in base.get("added_tokens", []) if token["special"]]
        settings = {"eos_token": special[0]} if special else {}
    return _Clone(base, clone_tokenizer(base), settings)


def _clone_corpus(arguments: argparse.Namespace, clone: _Clone | None, stream: TextIO | None, console: Console) -> None:
    """Write the clone of every document, and compare the ids of the first ones.

    Raises:
        DataError: every document that can't be read or holds clone characters.
    """
    problems = Problems()
    count = 0
    for count, document in enumerate(_documents(arguments.input, arguments.json_key, problems, console), start=1):
        cloned = clone_text(document.text)
        if stream:
            record = {**document.record, arguments.json_key: cloned}
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        if clone and count <= arguments.verify_documents:
            clone.verify(document, cloned)
    problems.raise_if_any()
    console.print(f"text: {count} documents")
    if clone and (tokens := clone.counts["tokens"]):
        ratio = clone.counts["shared"] / tokens
        console.print(f"verified: ids of {clone.counts['documents']} documents, {tokens} tokens, {ratio:.1%} shared")


def _documents(paths: Sequence[str], json_key: str, problems: Problems, console: Console) -> Iterator[Document]:
    """Yield the documents that can be cloned, with progress; the others become problems."""
    documents = read_documents(paths, json_key, problems)
    for document in track(documents, "reading", console=console, disable=not console.is_terminal, transient=True):
        if found := find_clone_character(document.text):
            problems.add(
                f"{document.path}:{document.line}: holds {found!r} (U+{ord(found):04X}), which English-Clone uses"
                " itself; leave the document out"
            )
        else:
            yield document


def _make_lexicons(arguments: argparse.Namespace, console: Console) -> tuple[Lexicon, Lexicon]:
    """Return the clone lexicon of the frequent words as (train, held-out).

    Raises:
        DataError: a document that can't be read, no word frequent enough, or an empty part.
    """
    problems = Problems()
    paths = arguments.lexicon_input or arguments.input
    counts = count_words(document.text for document in _documents(paths, arguments.json_key, problems, console))
    problems.raise_if_any()
    words = frequent_words(counts, arguments.min_count, arguments.max_words)
    lexicon = clone_lexicon(words, arguments.source_language)
    train, held_out = lexicon.split(arguments.held_out_ratio, arguments.seed)
    if not train or (arguments.held_out_ratio > 0 and not held_out):
        raise DataError(f"of {len(words)} words {len(held_out)} would be held out; give more text or another ratio")
    covered = sum(counts[word] for word in words) / sum(counts.values())
    console.print(f"lexicon: {len(train)} words, {len(held_out)} held out; they are {covered:.1%} of the running words")
    return train, held_out


if __name__ == "__main__":
    raise SystemExit(main())
