"""Word translation: does a word's vector find its translation, at every tap?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from megatron_prealign.evaluation.frame import Evaluation, Paths, Progress, Results, problems_of
from megatron_prealign.lexicon import Lexicon, read_lexicon

if TYPE_CHECKING:
    from rich.table import Table

    from megatron_prealign.evaluation.folder import ModelFolder

_MAX_TABLES = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which words to measure."""

    lexicons: Paths
    """Files of word pairs, in any format that lexicons have."""

    known_lexicons: Paths = ()
    """Files of pairs that the model was trained on: source words are scored apart by whether all tokens of theirs and
    of their translations occur in them."""

    source_language: str = "en"
    """Language of the source words."""

    target_language: str | None = None
    """Language of translations in files that name none."""

    max_pairs: PositiveInt = 2000
    """Word pairs of a language pair, at most; of more so many are drawn."""

    seed: int = 0
    """Seed of the draw."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the lexicons."""
    found = problems_of(lambda: _read(options.lexicons, options))
    if options.known_lexicons:
        found += problems_of(lambda: _read(options.known_lexicons, options))
    return found


def run(folder: "ModelFolder", options: Options, progress: Progress) -> Results:
    """Return taps, and pairs: by "source-target" counts and scores by tap, as `measure_retrieval` gives them."""
    from megatron_prealign.evaluation.retrieval import measure_retrieval, token_ids_of
    from megatron_prealign.evaluation.vectors import model_tap_names

    known = None
    if options.known_lexicons:
        known = token_ids_of(_read(options.known_lexicons, options), folder.tokenizer)
    pairs = measure_retrieval(
        folder,
        _read(options.lexicons, options),
        max_pairs=options.max_pairs,
        seed=options.seed,
        known_tokens=known,
        progress=progress,
    )
    return {"taps": model_tap_names(folder.model), "pairs": pairs}


def tables(name: str, results: Results) -> "Iterator[Table]":
    """Yield for each language pair a table with a row a tap; of many pairs one table with a row a pair."""
    from megatron_prealign.evaluation.frame import best_taps_table

    pairs = results["pairs"]
    columns = {"p_at_1": "P@1", "csls_p_at_1": "CSLS"}
    if any("num_known_source_words" in row for row in pairs.values()):
        columns |= {"p_at_1_known": "P@1 known", "p_at_1_new": "P@1 new"}
    title = name.replace("_", " ").capitalize()
    if len(pairs) > _MAX_TABLES:
        yield best_taps_table(title, pairs, columns, "num_pairs")
        return
    columns |= {"mean_cosine": "mean cosine", "anisotropy": "anisotropy"}
    for pair, row in pairs.items():
        yield _table(f"{title}, {pair}", row, results["taps"], columns)


def _table(title: str, row: dict[str, Any], taps: list[str], columns: dict[str, str]) -> "Table":
    from rich.table import Table

    title += f" ({row['num_pairs']:,} pairs)"
    if "num_known_source_words" in row:
        count = row["num_known_source_words"]
        title += f"\nknown: all tokens, translations included, occur in trained words, {count:,} source words"
    table = Table("tap", *columns.values(), title=title)
    for index, tap in enumerate(taps):
        scores = [row[key][index] for key in columns]
        table.add_row(tap, *("-" if score is None else f"{score:.3f}" for score in scores))
    return table


def _read(paths: Paths, options: Options) -> Lexicon:
    return read_lexicon(paths, options.source_language, options.target_language)


EVALUATION = Evaluation(Options, check, run, tables)
