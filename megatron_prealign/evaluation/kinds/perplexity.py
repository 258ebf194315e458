"""Perplexity of each language, per token and per byte."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from megatron_prealign.evaluation.frame import Evaluation, Paths, Progress, Results, problems_of
from megatron_prealign.text.documents import read_languages

if TYPE_CHECKING:
    from rich.table import Table

    from megatron_prealign.evaluation.folder import ModelFolder


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure it on."""

    texts: dict[str, Paths]
    """Files of documents by language: JSONL, or text with a document a line."""

    json_key: str = "text"
    """Key of the text in JSONL files."""

    window: PositiveInt | None = None
    """Input tokens at once; none = the length the model was trained on."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the texts."""
    return problems_of(lambda: read_languages(options.texts, options.json_key))


def run(folder: "ModelFolder", options: Options, progress: Progress) -> Results:
    """Return for each language perplexity, loss, tokens, byte_perplexity, bits_per_byte, bytes and documents."""
    from megatron_prealign.evaluation.perplexity import measure_perplexity

    results = {}
    for language, texts in read_languages(options.texts, options.json_key).items():
        told = partial(progress, part=language)
        results[language] = measure_perplexity(folder, texts, window=options.window, progress=told).to_json()
    return results


def tables(name: str, results: Results) -> "Iterator[Table]":
    """Yield a table with a row a language."""
    from rich.table import Table

    table = Table("language", "perplexity", "per byte", "loss", "tokens", "documents", title=name.capitalize())
    for language, row in results.items():
        numbers = (f"{row[key]:.4g}" if row[key] else "-" for key in ("perplexity", "byte_perplexity", "loss"))
        table.add_row(language, *numbers, f"{row['tokens']:,}", f"{row['documents']:,}")
    yield table


EVALUATION = Evaluation(Options, check, run, tables)
