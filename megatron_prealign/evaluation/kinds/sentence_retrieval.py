"""Sentences or articles aligned between languages: does a text's vector find its counterpart, at every tap?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.aligned import aligned_scores, counterparts
from megatron_prealign.evaluation.frame import Evaluation, Paths, Progress, Results, problems_of
from megatron_prealign.lexicon import normalize_language
from megatron_prealign.pairs.sentences import read_aligned

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from megatron_prealign.evaluation.folder import ModelFolder


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which texts to measure."""

    texts: Paths
    """Files of aligned texts: TSV with a line of languages, or JSONL with objects of texts by language."""

    source_language: str = "en"
    """Language that the others are held against."""

    languages: tuple[str, ...] = ()
    """Languages to measure; none = all that the files have."""

    pooling: Literal["mean", "weighted"] = "weighted"
    """How a text's tokens count: alike, or each by its position, as MEXA has it."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the texts, and which languages have no counterparts."""
    return problems_of(lambda: _pairs(options))


def run(folder: "ModelFolder", options: Options, progress: Progress) -> Results:
    """Return taps, and pairs: by "source-target" counts, scores by tap and MEXA over all taps of hidden states.

    A text is encoded alone, behind an end-of-document token that counts nothing, and cut at the model's window.
    """
    from megatron_prealign.evaluation.vectors import model_tap_names

    source = normalize_language(options.source_language)
    found = _pairs(options)
    source_texts = {
        text: index for index, text in enumerate({text: 0 for pairs in found.values() for text, _ in pairs})
    }
    source_vectors, source_cut = _vectors(folder, source, list(source_texts), options.pooling)
    taps = model_tap_names(folder.model)
    results: Results = {"taps": taps, "pairs": {}}
    for done, (language, pairs) in enumerate(found.items(), start=1):
        chosen = [source_texts[text] for text, _ in pairs]
        vectors, cut = _vectors(folder, language, [text for _, text in pairs], options.pooling)
        scores = [asdict(aligned_scores(*sides)) for sides in zip(source_vectors[:, chosen], vectors, strict=True)]
        row: dict[str, Any] = {
            "num_texts": len(pairs),
            "num_cut": sum(cut) + sum(source_cut[index] for index in chosen),
        }
        row |= {name: [tap[name] for tap in scores] for name in scores[0]}
        hidden = [value for tap, value in zip(taps, row["mexa"], strict=True) if tap != "output_embedding"]
        row |= {"mexa_mean": mean(hidden), "mexa_max": max(hidden)}
        results["pairs"][f"{source}-{language}"] = row
        progress(done, len(found))
    return results


def tables(name: str, results: Results) -> "Iterator[Table]":
    """Yield a table with a row a pair of languages, each score at its best tap."""
    from megatron_prealign.evaluation.frame import best_taps_table

    columns = {"p_at_1": "P@1", "p_at_1_back": "P@1 back", "csls_p_at_1": "CSLS", "mexa": "MEXA"}
    yield best_taps_table(name.replace("_", " ").capitalize(), results["pairs"], columns, "num_texts")


def _vectors(
    folder: "ModelFolder", language: str, texts: list[str], pooling: Literal["mean", "weighted"]
) -> "tuple[Tensor, list[bool]]":
    """Return the vectors of texts, [taps, N, H], and which of them were cut."""
    from megatron_prealign.evaluation.vectors import sequence_vectors

    prefix = [] if folder.tokenizer.eod_id is None else [folder.tokenizer.eod_id]
    room = folder.window - len(prefix)
    encoded = folder.tokenizer.encode_batch(texts)
    if not all(encoded):
        raise DataError(f"a text in {language} has no token in this model's tokenizer; leave the language out")
    return sequence_vectors(folder, [ids[:room] for ids in encoded], pooling, prefix), [
        len(ids) > room for ids in encoded
    ]


def _pairs(options: Options) -> dict[str, list[tuple[str, str]]]:
    source = normalize_language(options.source_language)
    return counterparts(read_aligned(options.texts), source, options.languages)


EVALUATION = Evaluation(Options, check, run, tables)
