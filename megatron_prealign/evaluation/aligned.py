"""How well the vectors of texts that say the same in several languages find each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_prealign.errors import DataError
from megatron_prealign.pairs.sentences import Row
from megatron_prealign.text.languages import normalize_language

if TYPE_CHECKING:
    from torch import Tensor


def counterparts(rows: Sequence[Row], source: str, languages: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return by target language the texts that it and the source language both have.

    Args:
        rows: aligned texts.
        source: language that all others are held against.
        languages: targets; none = all there are.

    Raises:
        DataError: languages with fewer than two texts beside the source's.
    """
    there = dict.fromkeys(name for row in rows for name in row if name != source)
    wanted = [normalize_language(name) for name in languages] or list(there)
    found = {name: [(row[source], row[name]) for row in rows if source in row and name in row] for name in wanted}
    if lonely := [name for name, pairs in found.items() if len(pairs) < 2]:
        raise DataError(
            f"{', '.join(lonely)}: fewer than 2 texts beside one in {source}; the files have "
            f"{', '.join((source, *there)) if any(source in row for row in rows) else ', '.join(there)}"
        )
    if not found:
        raise DataError(f"the files have no language but {source}")
    return found


@dataclass(frozen=True)
class AlignedScores:
    """How texts and their counterparts find each other at one tap; shares in [0, 1], a tie is a miss."""

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
    """Mean cosine of a source and a target text that are no counterparts."""


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
