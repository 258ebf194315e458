"""Sentences or articles aligned between languages: does a text's vector find its counterpart, at every tap?"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.frame import (
    Evaluation,
    Paths,
    Progress,
    Results,
    as_title,
    best_taps_table,
    problems_of,
)
from megatron_prealign.pairs.sentences import Row, read_aligned
from megatron_prealign.text.languages import normalize_language

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which texts to measure."""

    texts: Paths
    """Files of aligned texts: TSV whose first line names languages, or JSONL with one object of texts by language per
    line."""

    source_language: str = "en"
    """Language that all others are compared with."""

    languages: tuple[str, ...] = ()
    """Languages to measure; empty = all languages in the files."""

    pooling: Literal["mean", "weighted"] = "weighted"
    """Weights of a text's tokens: mean = equal; weighted = by position, as in MEXA."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the texts, and which languages have no counterparts."""
    return problems_of(lambda: _pairs(options))


def run(folder: ModelFolder, options: Options, progress: Progress) -> Results:
    """Return taps, and pairs: by "source-target" counts, scores by tap and MEXA over all taps of hidden states.

    A text is encoded after an end-of-document token that is not pooled, and cut at the model's window.
    """
    source = normalize_language(options.source_language)
    found = _pairs(options)
    source_texts = dict.fromkeys(text for pairs in found.values() for text, _ in pairs)
    positions = {text: index for index, text in enumerate(source_texts)}
    source_vectors, source_cut = _vectors(folder, source, list(positions), options.pooling)
    results: Results = {"taps": folder.taps, "pairs": {}}
    for done, (language, pairs) in enumerate(found.items(), start=1):
        chosen = [positions[text] for text, _ in pairs]
        vectors, cut = _vectors(folder, language, [text for _, text in pairs], options.pooling)
        scores = [asdict(aligned_scores(*sides)) for sides in zip(source_vectors[:, chosen], vectors, strict=True)]
        row: Results = {"num_texts": len(pairs), "num_cut": sum(cut) + sum(source_cut[index] for index in chosen)}
        row |= {name: [tap[name] for tap in scores] for name in scores[0]}
        hidden = [value for tap, value in zip(folder.taps, row["mexa"], strict=True) if tap != "output_embedding"]
        row |= {"mexa_mean": mean(hidden), "mexa_max": max(hidden)}
        results["pairs"][f"{source}-{language}"] = row
        progress(done, len(found))
    return results


def tables(name: str, results: Results) -> Iterator[Table]:
    """Yield a table with one row per pair of languages, each score at its best tap."""
    columns = {"p_at_1": "P@1", "p_at_1_back": "P@1 back", "csls_p_at_1": "CSLS", "mexa": "MEXA"}
    yield best_taps_table(as_title(name), results["pairs"], columns, "num_texts")


def _pairs(options: Options) -> dict[str, list[tuple[str, str]]]:
    source = normalize_language(options.source_language)
    return counterparts(read_aligned(options.texts), source, options.languages)


def counterparts(rows: Sequence[Row], source: str, languages: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return by target language the texts that it and the source language both have.

    Args:
        rows: aligned texts.
        source: language that all others are compared with.
        languages: targets; empty = all there are.

    Raises:
        DataError: a language has fewer than two texts with a counterpart in the source language.
    """
    there = dict.fromkeys(name for row in rows for name in row if name != source)
    wanted = [normalize_language(name) for name in languages] or list(there)
    found = {name: [(row[source], row[name]) for row in rows if source in row and name in row] for name in wanted}
    if lonely := [name for name, pairs in found.items() if len(pairs) < 2]:
        raise DataError(
            f"{', '.join(lonely)}: fewer than 2 texts with a counterpart in {source}; the files have "
            f"{', '.join((source, *there)) if any(source in row for row in rows) else ', '.join(there)}"
        )
    if not found:
        raise DataError(f"the files contain no language other than {source}; give aligned texts of two languages")
    return found


def _vectors(
    folder: ModelFolder, language: str, texts: list[str], pooling: Literal["mean", "weighted"]
) -> "tuple[Tensor, list[bool]]":
    """Return the vectors of texts, [taps, N, H], and which of them were cut."""
    from megatron_prealign.evaluation.vectors import sequence_vectors

    prefix = folder.document_start
    room = folder.window - len(prefix)
    encoded = folder.tokenizer.encode_batch(texts)
    if not all(encoded):
        raise DataError(f"a text in {language} has no token in this model's tokenizer; leave the language out")
    vectors = sequence_vectors(folder, [ids[:room] for ids in encoded], pooling, prefix)
    return vectors, [len(ids) > room for ids in encoded]


@dataclass(frozen=True)
class AlignedScores:
    """Retrieval of counterparts at one tap; shares in [0, 1], a tie is a miss."""

    p_at_1: float
    """Share of source texts whose nearest target text is the counterpart."""
    p_at_1_back: float
    """The same from target to source."""
    csls_p_at_1: float
    """`p_at_1` by CSLS."""
    mexa: float
    """Share of pairs nearer than any other pair of either text: MEXA (Kargaran et al., 2025) of one layer."""
    mean_cosine: float
    """Mean cosine of counterparts."""
    anisotropy: float | None
    """Mean cosine of a source and a target text that are not counterparts."""


def aligned_scores(sources: "Tensor", targets: "Tensor") -> AlignedScores:
    """Score vectors of texts against those of their counterparts: [N, H] each, row by row."""
    import torch

    from megatron_prealign.evaluation.retrieval import csls_p_at_1, retrieval_scores

    links = torch.arange(len(sources))[:, None].expand(-1, 2)
    forward, back = retrieval_scores(sources, targets, links), retrieval_scores(targets, sources, links)
    return AlignedScores(
        p_at_1=forward.p_at_1,
        p_at_1_back=back.p_at_1,
        csls_p_at_1=csls_p_at_1(sources, targets, links),
        mexa=float((forward.hits & back.hits).double().mean()),
        mean_cosine=forward.mean_cosine,
        anisotropy=forward.anisotropy,
    )


EVALUATION = Evaluation(Options, check, run, tables)
