"""Word translation: does a word's vector find its translation, at every tap?"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import PositiveInt
from rich.table import Table

from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.frame import (
    Evaluation,
    Paths,
    Progress,
    Results,
    as_title,
    best_taps_table,
    cell,
    problems_of,
)
from megatron_prealign.lexicon import Lexicon, read_lexicon

_MAX_TABLES = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which words to measure."""

    lexicons: Paths
    """Files of word pairs, in any lexicon format."""

    known_lexicons: Paths = ()
    """Files of pairs that the model was trained on: source words are scored separately by whether all tokens of the
    word and of its translations occur in them."""

    source_language: str = "en"
    """Language of the source words."""

    target_language: str | None = None
    """Language of the translations, for files that do not name it."""

    max_pairs: PositiveInt = 2000
    """Most word pairs per language pair; if there are more, they are drawn at random."""

    seed: int = 0
    """Seed of the draw."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the lexicons."""
    found = problems_of(lambda: _read(options.lexicons, options))
    if options.known_lexicons:
        found += problems_of(lambda: _read(options.known_lexicons, options))
    return found


def run(folder: ModelFolder, options: Options, progress: Progress) -> Results:
    """Return taps, and pairs: by "source-target" counts and scores by tap, as `measure_retrieval` gives them."""
    from megatron_prealign.evaluation.retrieval import measure_retrieval, token_ids_of

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
    return {"taps": folder.taps, "pairs": pairs}


def tables(name: str, results: Results) -> Iterator[Table]:
    """Yield for each language pair a table with one row per tap; for many pairs, one table with one row per pair."""
    pairs = results["pairs"]
    columns = {"p_at_1": "P@1", "csls_p_at_1": "CSLS"}
    if any("num_known_source_words" in row for row in pairs.values()):
        columns |= {"p_at_1_known": "P@1 known", "p_at_1_new": "P@1 new"}
    if len(pairs) > _MAX_TABLES:
        yield best_taps_table(as_title(name), pairs, columns, "num_pairs")
        return
    columns |= {"mean_cosine": "mean cosine", "anisotropy": "anisotropy"}
    for pair, row in pairs.items():
        title = f"{as_title(name)}, {pair} ({row['num_pairs']:,} pairs)"
        if "num_known_source_words" in row:
            count = row["num_known_source_words"]
            title += f"\nknown: all tokens, translations included, occur in trained words, {count:,} source words"
        table = Table("tap", *columns.values(), title=title)
        for index, tap in enumerate(results["taps"]):
            table.add_row(tap, *(cell(row[key][index]) for key in columns))
        yield table


def _read(paths: Paths, options: Options) -> Lexicon:
    return read_lexicon(paths, options.source_language, options.target_language)


EVALUATION = Evaluation(Options, check, run, tables)
