"""Clean dictionaries: merge them, drop what is unlikely to be a translation, and hold some words out.

    python tools/clean_lexicon.py --input en-de.txt --source-language en --target-language de --output en-de.tsv

reads TSV, MUSE text and both JSONL forms of PreAlign's authors, writes TSV (word, translation, language, weight), and
tells what each filter dropped. Public dictionaries are dirty: half of some are words paired with themselves.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_prealign.errors import ConfigError, DataError, PrealignError
from megatron_prealign.lexicon import Lexicon, filter_lexicon, read_lexicon
from megatron_prealign.lexicon.output import output_problems

_FILTERS = {
    "identity": (True, "drop pairs of two equal words"),
    "script": (True, "drop words that are not in the script of their language"),
    "non-letters": (True, "drop words with digits, punctuation or symbols"),
    "one-letter": (True, "drop words of one letter, where a letter is no word"),
    "multi-word": (False, "drop entries of several words"),
}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, and the description as it is written."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_HelpFormatter)
    parser.add_argument(
        "--input", nargs="+", action="extend", required=True, metavar="FILE", help="dictionaries, merged in this order"
    )
    parser.add_argument("--source-language", default="en", help="language of the source words")
    parser.add_argument("--target-language", help="language of translations in files that name none")
    for name, (default, text) in _FILTERS.items():
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=default, help=text)
    parser.add_argument(
        "--max-translations", type=int, metavar="N", help="keep the N heaviest of a word and language; all by default"
    )
    parser.add_argument("--held-out-ratio", type=float, default=0.0, help="share of source words in [0, 1) held out")
    parser.add_argument("--seed", type=int, default=1, help="seed of the choice of words that are held out")
    parser.add_argument("--output", type=Path, required=True, help="TSV file of the clean lexicon")
    parser.add_argument("--output-held-out", type=Path, help="TSV file of the words that are held out")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can mend."""
    arguments = build_parser().parse_args(argv)
    try:
        _check_arguments(arguments)
        lexicon = read_lexicon(arguments.input, arguments.source_language, arguments.target_language)
        filters = {name.replace("-", "_"): getattr(arguments, name.replace("-", "_")) for name in _FILTERS}
        clean, dropped = filter_lexicon(lexicon, **filters, max_translations=arguments.max_translations)
        kept, held_out = clean.split(arguments.held_out_ratio, arguments.seed)
        _write(arguments, kept, held_out)
    except (PrealignError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _report(lexicon, dropped, kept, held_out)
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    problems = []
    if not 0.0 <= arguments.held_out_ratio < 1.0:
        problems.append(f"--held-out-ratio is {arguments.held_out_ratio}; give a number in [0, 1)")
    if (arguments.held_out_ratio > 0) != (arguments.output_held_out is not None):
        problems.append("--held-out-ratio above 0 and --output-held-out belong together")
    if arguments.output_held_out and arguments.output_held_out.resolve() == arguments.output.resolve():
        problems.append("--output and --output-held-out have the same name")
    if problems:
        raise ConfigError(problems)
    outputs = [path for path in (arguments.output, arguments.output_held_out) if path]
    if problems := [problem for path in outputs for problem in output_problems(path, arguments.overwrite)]:
        raise DataError(problems)


def _write(arguments: argparse.Namespace, kept: Lexicon, held_out: Lexicon) -> None:
    if not kept.entries:
        raise DataError("every word is held out; lower --held-out-ratio")
    # The held-out words first: a lexicon without them beside it would look finished.
    if arguments.output_held_out:
        held_out.write_tsv(arguments.output_held_out, arguments.overwrite)
    kept.write_tsv(arguments.output, arguments.overwrite)


def _report(lexicon: Lexicon, dropped: dict[str, int], kept: Lexicon, held_out: Lexicon) -> None:
    table = Table("", "word pairs", "words", title="lexicon")
    table.add_row("read", f"{lexicon.num_pairs:,}", f"{len(lexicon):,}")
    for name, count in dropped.items():
        table.add_row(f"dropped by {name.replace('_', '-')}", f"{count:,}", "")
    table.add_row("kept", f"{kept.num_pairs:,}", f"{len(kept):,}")
    if held_out.entries:
        table.add_row("held out", f"{held_out.num_pairs:,}", f"{len(held_out):,}")
    Console(stderr=True).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
