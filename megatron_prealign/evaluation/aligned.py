"""Texts that say the same in several languages, and how well their vectors find each other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.lexicon.reading import numbered_lines, read_bytes
from megatron_prealign.text.languages import normalize_language

if TYPE_CHECKING:
    from torch import Tensor

Row = Mapping[str, str]
"""One text by language; languages that lack it are left out."""


def read_aligned(paths: Sequence[str]) -> list[Row]:
    """Read aligned texts.

    A JSONL file has an object of texts by language on each line, any other file is TSV with languages in its first
    line; empty cells and values that are no text are missing translations. Either may be packed as .gz.

    Raises:
        DataError: every line that can't be read, and files without any text.
    """
    problems = Problems()
    rows: list[Row] = []
    for path in map(Path, paths):
        try:
            data = read_bytes(path)
        except OSError as error:
            problems.add(f"{path}: can't be read ({error}); give an existing file")
            continue
        lines = list(numbered_lines(path, data, problems))
        is_json = ".jsonl" in path.suffixes
        found = [_object(path, *line, problems) for line in lines] if is_json else _table(path, lines, problems)
        if not any(found):
            problems.add(f"{path}: holds no text; write a line of languages and lines of texts, or objects of both")
        rows += [row for row in found if row]
    problems.raise_if_any()
    return rows


def _object(path: Path, number: int, line: str, problems: Problems) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        problems.add(f"{path}:{number}: not JSON ({error})")
        return {}
    if not isinstance(record, dict):
        problems.add(f"{path}:{number}: an object of texts by language is expected")
        return {}
    return {normalize_language(name): text for name, text in record.items() if isinstance(text, str) and text.strip()}


def _table(path: Path, lines: Sequence[tuple[int, str]], problems: Problems) -> list[Row]:
    languages = [normalize_language(name) for name in lines[0][1].split("\t")] if lines else []
    rows: list[Row] = []
    for number, line in lines[1:]:
        cells = line.split("\t")
        if len(cells) != len(languages):
            problems.add(
                f"{path}:{number}: {len(cells)} cells under {len(languages)} languages; write a tab between two"
            )
            continue
        rows.append({name: text for name, text in zip(languages, cells, strict=True) if text.strip()})
    return rows


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
