r"""Build a lexicon from dictionaries, or have a language model translate the words of a corpus.

    python tools/build_lexicon.py dictionaries --source-language en --input de=freedict-eng-deu.index zh=cedict.u8.gz \
        --max-translations 4 --corpus english.jsonl --output lexicon.tsv

reads TSV, CSV, MUSE text, both JSONL forms of PreAlign's authors, dictd (FreeDict), CC-CEDICT, EDICT and Ding, drops
unlikely translations, ranks the others by frequency, and reports what it dropped and how much text the lexicon covers.

    python tools/build_lexicon.py translate --corpus english.jsonl --languages de zh --num-words 5000 \
        --endpoint http://localhost:8000/v1 --model NAME --output translated.tsv

translates the corpus's most frequent words with any OpenAI-compatible server; `dictionaries` reads the result.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import ConfigError, DataError, Problems
from megatron_prealign.files import atomic_text_file, output_problems
from megatron_prealign.lexicon import Lexicon
from megatron_prealign.lexicon.building import BuildOptions, BuiltLexicon, DictionaryFile, build_lexicon
from megatron_prealign.lexicon.frequency import count_corpus_words
from megatron_prealign.lexicon.readers import FORMATS, parse_languages
from megatron_prealign.lexicon.translation import KEY_VARIABLE, Translator, translate_words
from megatron_prealign.text.documents import read_documents
from megatron_prealign.text.files import find_files
from megatron_prealign.text.languages import language_problems

_FILTERS = {
    "identity": (True, "drop pairs of two equal words"),
    "script": (True, "drop words that are not in the script of their language"),
    "non-letters": (True, "drop words with digits, punctuation or symbols"),
    "one-letter": (True, "drop words of one letter, in scripts whose letters are not words"),
    "multi-word": (False, "drop entries of several words"),
}
_LANGUAGE_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9_,-]*)=(.+)", re.DOTALL)
_NUM_MISSED_SHOWN = 12


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_dictionaries(commands.add_parser("dictionaries", help="build a lexicon", formatter_class=HelpFormatter))
    _add_translate(
        commands.add_parser(
            "translate", help="translate words of a corpus with a language model", formatter_class=HelpFormatter
        )
    )
    return parser


def _add_dictionaries(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_dictionaries)
    files = parser.add_argument_group("dictionaries")
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": [], "metavar": "[LANGUAGE=]FILE"}
    files.add_argument("--input", **many, help="dictionaries from the source language into LANGUAGE, merged in order")
    files.add_argument("--reverse-input", **many, help="dictionaries from LANGUAGE into the source language")
    files.add_argument("--source-language", default="en", help="language of the source words")
    files.add_argument("--target-language", help="LANGUAGE of files given without one")
    files.add_argument("--format", choices=FORMATS, default="auto", help="format of all files")
    files.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="what to do with malformed lines")
    steps = parser.add_argument_group("filters and ranking")
    for name, (default, text) in _FILTERS.items():
        steps.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=default, help=text)
    steps.add_argument(
        "--on-alarm",
        choices=("warn", "fail"),
        default="warn",
        help="what to do if one of the first four filters drops most word pairs of a language",
    )
    steps.add_argument("--max-length", type=int, default=40, metavar="N", help="drop words longer than N characters")
    switch: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": True}
    steps.add_argument(
        "--check-languages",
        **switch,
        help="refuse a dictionary whose words are in another language than named (py3langid)",
    )
    steps.add_argument("--rank", **switch, help="weight translations by their frequency in running text (wordfreq)")
    steps.add_argument(
        "--max-translations", type=int, metavar="N", help="keep the N heaviest per word and language; all by default"
    )
    steps.add_argument(
        "--min-languages", type=int, default=1, metavar="N", help="keep words translated into at least N languages"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--held-out-ratio", type=float, default=0.0, help="share of source words to hold out, in [0, 1)"
    )
    output.add_argument("--seed", type=int, default=1, help="seed of the choice of held-out words")
    output.add_argument("--output", type=path_argument, required=True, help="TSV file of the lexicon")
    output.add_argument("--output-held-out", type=path_argument, help="TSV file of the held-out words")
    output.add_argument(
        "--corpus",
        type=path_argument,
        nargs="+",
        action="extend",
        default=[],
        help="text files or folders, to measure the share of words that the lexicon covers",
    )
    output.add_argument("--json-key", default="text", help="key of the text in .jsonl corpora")
    output.add_argument("--report", type=path_argument, help="JSON file of the report")
    output.add_argument("--overwrite", action="store_true", help="replace existing outputs")


def _add_translate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_translate)
    words = parser.add_argument_group("words")
    words.add_argument(
        "--corpus", type=path_argument, nargs="+", action="extend", required=True, help="text in the source language"
    )
    words.add_argument("--json-key", default="text", help="key of the text in .jsonl corpora")
    words.add_argument("--source-language", default="en", help="language of the corpus")
    words.add_argument(
        "--languages", nargs="+", action="extend", required=True, metavar="LANGUAGE", help="languages to translate into"
    )
    words.add_argument("--num-words", type=int, default=10000, help="most frequent words of the corpus to translate")
    server = parser.add_argument_group("server", f"its API key is read from the environment variable {KEY_VARIABLE}")
    server.add_argument("--endpoint", required=True, help="base address, for example http://localhost:8000/v1")
    server.add_argument("--model", required=True, help="the server's name of the model")
    server.add_argument("--max-translations", type=int, default=3, help="translations to ask for in each language")
    server.add_argument("--batch-size", type=int, default=20, help="words in one request")
    server.add_argument("--concurrent", type=int, default=4, help="requests in flight at a time")
    server.add_argument("--requests-per-minute", type=float, help="limit of requests started per minute")
    server.add_argument("--retries", type=int, default=4, help="retries of a request after a temporary failure")
    server.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for an answer")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", type=path_argument, required=True, help="TSV file; a stopped run resumes from its .journal"
    )
    output.add_argument("--overwrite", action="store_true", help="replace an existing output")


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    arguments.run(arguments)
    return 0


def _run_dictionaries(arguments: argparse.Namespace) -> None:
    _check_arguments(arguments)
    filters = {name.replace("-", "_"): getattr(arguments, name.replace("-", "_")) for name in _FILTERS}
    options = BuildOptions(
        files=tuple(
            _dictionary_file(text, arguments.target_language, reverse)
            for texts, reverse in ((arguments.input, False), (arguments.reverse_input, True))
            for text in texts
        ),
        source_language=arguments.source_language,
        file_format=arguments.format,
        skip_bad_lines=arguments.on_error == "skip",
        check_languages=arguments.check_languages,
        filters={**filters, "max_length": arguments.max_length},
        refuse_alarms=arguments.on_alarm == "fail",
        rank=arguments.rank,
        max_translations=arguments.max_translations,
        min_languages=arguments.min_languages,
        held_out_ratio=arguments.held_out_ratio,
        seed=arguments.seed,
        corpus_paths=tuple(arguments.corpus),
        json_key=arguments.json_key,
    )
    built = build_lexicon(options)
    _write(arguments, built)
    for warning in built.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    Console(stderr=True).print(report_table(built.report))


def _dictionary_file(text: str, default_language: str | None, reverse: bool) -> DictionaryFile:
    match = _LANGUAGE_PREFIX.fullmatch(text)
    language, path = match.groups() if match else (default_language, text)
    return DictionaryFile(Path(path), language, reverse)


def _check_arguments(arguments: argparse.Namespace) -> None:
    problems = language_problems("--source-language", arguments.source_language)
    problems += language_problems("--target-language", arguments.target_language)
    for text in (*arguments.input, *arguments.reverse_input):
        if match := _LANGUAGE_PREFIX.fullmatch(text):
            for language in match[1].split(","):
                problems += language_problems(f"--input {text}:", language)
    if not arguments.input and not arguments.reverse_input:
        problems.append("no dictionary is given; use --input or --reverse-input")
    if not 0.0 <= arguments.held_out_ratio < 1.0:
        problems.append(f"--held-out-ratio must be in [0, 1), got {arguments.held_out_ratio}")
    if (arguments.held_out_ratio > 0) != (arguments.output_held_out is not None):
        problems.append("--held-out-ratio above 0 and --output-held-out belong together: give both or neither")
    outputs = [path for path in (arguments.output, arguments.output_held_out, arguments.report) if path]
    if len({path.resolve() for path in outputs}) < len(outputs):
        problems.append("--output, --output-held-out and --report must have different names")
    for option in ("max_length", "max_translations", "min_languages"):
        if (value := getattr(arguments, option)) is not None and value < 1:
            problems.append(f"--{option.replace('_', '-')} must be at least 1, got {value}")
    if problems:
        raise ConfigError(problems)
    files = [_dictionary_file(text, None, False).path for text in (*arguments.input, *arguments.reverse_input)]
    problems = find_files(arguments.corpus)[1]
    for path in outputs:
        problems += output_problems(path, arguments.overwrite, [*files, *arguments.corpus])
    if problems:
        raise DataError(problems)


def _write(arguments: argparse.Namespace, built: BuiltLexicon) -> None:
    # The lexicon last: if it exists, all outputs are complete.
    if arguments.report:
        with atomic_text_file(arguments.report, arguments.overwrite) as stream:
            json.dump(built.report, stream, ensure_ascii=False, indent=2)
            stream.write("\n")
    if arguments.output_held_out:
        built.held_out.write_tsv(arguments.output_held_out, arguments.overwrite)
    built.kept.write_tsv(arguments.output, arguments.overwrite)


def _run_translate(arguments: argparse.Namespace) -> None:
    for name in ("num_words", "max_translations", "batch_size", "concurrent", "requests_per_minute", "timeout"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {value}")
    problems = Problems()
    languages = parse_languages(arguments.source_language, ",".join(arguments.languages), problems)
    for problem in output_problems(arguments.output, arguments.overwrite):
        problems.add(problem)
    problems.raise_if_any()
    documents = read_documents(arguments.corpus, arguments.json_key, problems)
    counts = count_corpus_words((document.text for document in documents), languages.source)
    problems.raise_if_any()
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: arguments.num_words]]
    translator = Translator(
        endpoint=arguments.endpoint,
        model=arguments.model,
        source_language=languages.source,
        languages=languages.targets,
        max_translations=arguments.max_translations,
        batch_size=arguments.batch_size,
        num_concurrent=arguments.concurrent,
        requests_per_minute=arguments.requests_per_minute,
        num_retries=arguments.retries,
        timeout=arguments.timeout,
    )
    journal = arguments.output.with_name(arguments.output.name + ".journal")
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("words", total=len(words))
        result = translate_words(words, translator, journal, lambda done: progress.update(task, completed=done))
    if not result.pairs:
        raise DataError(f"{arguments.endpoint}: no answer contained a translation; see {journal}")
    Lexicon.from_pairs(languages.source, result.pairs).write_tsv(arguments.output, arguments.overwrite)
    print(
        f"{len(result.pairs):,} word pairs of {len(words):,} words in {result.num_requests:,} requests; "
        f"{result.num_resumed:,} words were answered in an earlier run; "
        f"without a translation: {len(result.untranslated):,}"
        + (f" ({', '.join(result.untranslated[:10])})" if result.untranslated else ""),
        file=sys.stderr,
    )
    journal.unlink()


def report_table(report: dict[str, Any]) -> Table:
    """Return the report as a short table."""
    table = Table("", "word pairs", "words", "examples", title="lexicon", title_justify="left")
    table.add_row("read", f"{report['read']['pairs']:,}", f"{report['read']['words']:,}", "")
    for name, dropped in report["dropped"].items():
        examples = ", ".join(dropped["examples"][:2])
        table.add_row(f"dropped by {name.replace('_', '-')}", f"{dropped['pairs']:,}", "", examples)
    table.add_row("kept", f"{report['kept']['pairs']:,}", f"{report['kept']['words']:,}", "")
    for language, count in report["kept"]["pairs_by_language"].items():
        table.add_row(f"  into {language}", f"{count:,}", "", "")
    if report["held_out"]["words"]:
        table.add_row("held out", f"{report['held_out']['pairs']:,}", f"{report['held_out']['words']:,}", "")
    if coverage := report.get("coverage"):
        share = f"{coverage['covered_words']:,} of {coverage['words']:,} words ({coverage['ratio']:.1%})"
        missed = ", ".join(word for word, _ in coverage["missed"][:_NUM_MISSED_SHOWN])
        table.add_row("corpus covered", share, f"{coverage['covered_distinct_words']:,}", f"missed: {missed}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
