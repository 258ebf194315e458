"""Inspect a baked dataset: documents with switched words marked, inputs with labels, or the bake's statistics.

    python tools/inspect_dataset.py data/en_text_document --tokenizer-model tok/ --lexicon lexicon.tsv --documents 0 7
    python tools/inspect_dataset.py data/en_text_document --tokenizer-model tok/ --random 5 --html look.html
    python tools/inspect_dataset.py data/en_text_document --tokenizer-model tok/ --labels
    python tools/inspect_dataset.py data/en_text_document --statistics

On a terminal original words are red and translations green; elsewhere they are shown as [original→translation].
"""

import argparse
import html
import random
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from megatron_prealign.bake.inspection import DatasetInspector, Piece, Row, statistics_table
from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.dataset.manifest import read_manifest
from megatron_prealign.errors import ConfigError
from megatron_prealign.files import atomic_text_file
from megatron_prealign.lexicon import read_lexicon
from megatron_prealign.text.tokenizer import load_tokenizer

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
pre {{ white-space: pre-wrap; font: inherit }} del {{ color: #b00020 }} ins {{ color: #006b3c; text-decoration: none }}
table {{ border-collapse: collapse; font-family: monospace }} td, th {{ padding: 0 1em; text-align: left }}
td {{ white-space: pre }} .switched {{ background: #fff3c4 }}</style>
<h1>{title}</h1>
{body}
</html>
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("dataset", type=path_argument, help="the dataset's path without .bin")
    parser.add_argument("--tokenizer-model", type=path_argument, metavar="PATH", help="the tokenizer of the bake")
    parser.add_argument(
        "--lexicon",
        type=path_argument,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="lexicon of the bake, to show the original words",
    )
    parser.add_argument("--source-language", default="en", help="language of the lexicon's source words")
    parser.add_argument("--target-language", help="language of the translations, for dictionaries that do not name it")
    parser.add_argument(
        "--documents", type=int, nargs="+", action="extend", default=[], metavar="N", help="document numbers, from 0"
    )
    parser.add_argument("--random", type=int, default=0, metavar="COUNT", help="show COUNT random documents")
    parser.add_argument("--seed", type=int, default=1, help="seed of --random")
    parser.add_argument("--labels", action="store_true", help="show input and label of every position")
    parser.add_argument("--statistics", action="store_true", help="show the bake's statistics instead of documents")
    parser.add_argument("--html", type=path_argument, metavar="FILE", help="write an HTML page instead of text")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing page")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    _run(arguments)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    lexicon = None
    if arguments.lexicon:
        lexicon = read_lexicon(arguments.lexicon, arguments.source_language, arguments.target_language)
    # Do not wrap lines in a file or a pipe.
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if arguments.statistics:
        console.print(statistics_table(arguments.dataset, read_manifest(arguments.dataset)))
        return
    if not arguments.tokenizer_model:
        raise ConfigError("--tokenizer-model is required, except with --statistics")
    inspector = DatasetInspector(arguments.dataset, load_tokenizer(arguments.tokenizer_model), lexicon)
    if not 0 <= arguments.random <= inspector.num_documents:
        raise ConfigError(
            f"--random must be from 0 to the dataset's {inspector.num_documents} documents, got {arguments.random}"
        )
    drawn = random.Random(arguments.seed).sample(range(inspector.num_documents), arguments.random)
    documents = [*arguments.documents, *drawn] or [0]
    if arguments.html:
        body = "\n".join(_html(inspector, number, arguments.labels) for number in documents)
        with atomic_text_file(arguments.html, arguments.overwrite) as stream:
            stream.write(_PAGE.format(title=html.escape(str(arguments.dataset)), body=body))
        return
    for number in documents:
        console.rule(f"document {number}", align="left")
        if arguments.labels:
            console.print(*map(_table, inspector.rows(number)), sep="\n")
        else:
            for pieces in inspector.pieces(number):
                console.print(_marked(pieces, console.is_terminal))


def _marked(pieces: Sequence[Piece], with_colours: bool) -> Text:
    text = Text()
    for piece in pieces:
        if piece.original is None:
            text.append(piece.text)
        elif with_colours:
            text.append(piece.original, "red strike").append("→").append(piece.text, "bold green")
        else:
            text.append(f"[{piece.original}→{piece.text}]")
    return text


def _table(rows: Sequence[Row]) -> Table:
    table = Table("position", "input", "label")
    for position, row in enumerate(rows):
        label = Text("(nothing)", "dim") if row.label is None else Text(repr(row.label))
        table.add_row(str(position), Text(repr(row.input)), label, style="yellow" if row.is_switched else None)
    return table


def _html(inspector: DatasetInspector, number: int, with_labels: bool) -> str:
    parts = [f"<h2>Document {number}</h2>"]
    if with_labels:
        for rows in inspector.rows(number):
            lines = [
                f"<tr{' class=switched' if row.is_switched else ''}><td>{position}<td>{html.escape(repr(row.input))}"
                f"<td>{'' if row.label is None else html.escape(repr(row.label))}"
                for position, row in enumerate(rows)
            ]
            parts.append("<table><tr><th>position<th>input<th>label" + "".join(lines) + "</table>")
    else:
        for pieces in inspector.pieces(number):
            marked = (
                html.escape(piece.text)
                if piece.original is None
                else f"<del>{html.escape(piece.original)}</del> <ins>{html.escape(piece.text)}</ins>"
                for piece in pieces
            )
            parts.append(f"<pre>{''.join(marked)}</pre>")
    return "\n".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
