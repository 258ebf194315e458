"""Word-translation retrieval at every tap: does a word's vector find its translation among all target words?

Words are encoded alone, as inside running text of their language, and a word's vector is the mean over its own
subwords (PreAlign sec. 3.1; the same rule as in stage 1).

Shape legend: W words, T source words, U target words, H hidden size, P word pairs.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.vectors import sequence_vectors
from megatron_prealign.lexicon import Lexicon, uses_spaces
from megatron_prealign.text.tokenizer import Tokenizer

_TIE = 1e-6
"""Cosines closer than this are equal: the order of a sum depends on a word's position in the batch."""
_ROWS_AT_ONCE = 4096
_CSLS_NEIGHBOURS = 10


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of one language pair at one tap."""

    hits: Tensor
    """[T] bool: the nearest target word is one of the source word's translations; a tie is a miss"""
    mean_cosine: float
    """Mean cosine of the vectors of a pair."""
    anisotropy: float | None
    """Mean cosine of a source and a target word that are not a pair; `None` if all words are pairs."""

    @property
    def p_at_1(self) -> float:
        """Share of source words with a hit, in [0, 1]."""
        return float(self.hits.double().mean())

    def to_json(self, known: Tensor | None = None) -> dict[str, float | None]:
        """Return the scores by name; with `known` [T] bool, known and new source words are also scored separately."""
        values = {"p_at_1": self.p_at_1, "mean_cosine": self.mean_cosine, "anisotropy": self.anisotropy}
        if known is None:
            return values
        parts = {"p_at_1_known": self.hits[known], "p_at_1_new": self.hits[~known]}
        return values | {name: float(hits.double().mean()) if len(hits) else None for name, hits in parts.items()}


def retrieval_scores(sources: Tensor, targets: Tensor, links: Tensor) -> RetrievalScores:
    """Score vectors of source words against those of all target words.

    Args:
        sources: [T, H] float; each row has at least one link.
        targets: [U, H] float.
        links: [P, 2] int64, rows (source, target) of the pairs, each once.
    """
    unit_sources, unit_targets = normalize(sources.float(), dim=-1), normalize(targets.float(), dim=-1)
    hits = []
    pair_sum = 0.0
    for cosines, is_pair in _blocks(unit_sources, unit_targets, links):
        hits.append(_hits(cosines, is_pair))
        pair_sum += float(cosines[is_pair].double().sum())
    # The mean over all pairs of words needs no sampling: it follows from the dot product of the summed vectors.
    all_sum = float(unit_sources.double().sum(dim=0) @ unit_targets.double().sum(dim=0))
    num_others = len(sources) * len(targets) - len(links)
    return RetrievalScores(
        hits=torch.cat(hits).cpu(),
        mean_cosine=pair_sum / len(links),
        anisotropy=(all_sum - pair_sum) / num_others if num_others else None,
    )


def csls_p_at_1(sources: Tensor, targets: Tensor, links: Tensor) -> float:
    """Return the share of sources with a hit by CSLS instead of the cosine; arguments as for `retrieval_scores`.

    CSLS (Conneau et al., 2018) subtracts from twice the cosine each word's mean cosine to its 10 nearest words on the
    other side, so that targets close to everything (hubs) don't win. The source's own mean does not change the ranking.
    """
    unit_sources, unit_targets = normalize(sources.float(), dim=-1), normalize(targets.float(), dim=-1)
    num_neighbours = min(_CSLS_NEIGHBOURS, len(sources))
    density = torch.cat(
        [
            (unit_targets[start : start + _ROWS_AT_ONCE] @ unit_sources.T).topk(num_neighbours).values.mean(dim=1)
            for start in range(0, len(unit_targets), _ROWS_AT_ONCE)
        ]
    )
    hits = [_hits(2 * cosines - density, is_pair) for cosines, is_pair in _blocks(unit_sources, unit_targets, links)]
    return float(torch.cat(hits).double().mean())


def _blocks(unit_sources: Tensor, unit_targets: Tensor, links: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of sources: their cosines with all targets, and which of them are pairs, [rows, U] each."""
    for start in range(0, len(unit_sources), _ROWS_AT_ONCE):
        cosines = unit_sources[start : start + _ROWS_AT_ONCE] @ unit_targets.T
        inside = (links[:, 0] >= start) & (links[:, 0] < start + len(cosines))
        is_pair = torch.zeros_like(cosines, dtype=torch.bool)
        is_pair[links[inside, 0] - start, links[inside, 1]] = True
        yield cosines, is_pair


def _hits(scores: Tensor, is_pair: Tensor) -> Tensor:
    """Return whether a pair of each row scores above all others: bool [rows]; a tie is a miss."""
    best_pair = scores.masked_fill(~is_pair, -torch.inf).amax(dim=1)
    best_other = scores.masked_fill(is_pair, -torch.inf).amax(dim=1)
    return best_pair > best_other + _TIE


@dataclass(frozen=True)
class WordPairs:
    """The words of one language pair as token ids, and which translate each other."""

    sources: list[list[int]]
    targets: list[list[int]]
    links: Tensor
    """[P, 2] int64 rows (source, target)"""
    num_dropped: int
    """Pairs left out because the tokenizer can't write one of the words."""

    def known(self, token_ids: AbstractSet[int]) -> Tensor:
        """Return whether all tokens of each source word and of its translations are in a set: [T] bool."""
        targets = torch.tensor([token_ids >= set(word) for word in self.targets])
        known = torch.tensor([token_ids >= set(word) for word in self.sources])
        unknown_links = self.links[~targets[self.links[:, 1]], 0]
        known[unknown_links] = False
        return known


def select_pairs(lexicon: Lexicon, language: str, tokenizer: Tokenizer, max_pairs: int, seed: int) -> WordPairs:
    """Collect the word pairs of one target language, at most `max_pairs` drawn by `seed`.

    The draw does not depend on the order of the lexicon. Among the words drawn, every pair of the lexicon counts, also
    those that were not drawn.

    Raises:
        DataError: no pair is left.
    """
    found = {
        (entry.word, translation.word)
        for entry in lexicon.entries
        for translation in entry.translations
        if translation.language == language
    }
    source_ids = _encode({source for source, _ in found}, lexicon.source_language, tokenizer)
    target_ids = _encode({target for _, target in found}, language, tokenizer)
    usable = sorted(pair for pair in found if pair[0] in source_ids and pair[1] in target_ids)
    if not usable:
        raise DataError(
            f"the lexicon has no pair {lexicon.source_language}-{language} whose words this tokenizer can write; "
            "give another lexicon"
        )
    drawn = usable if len(usable) <= max_pairs else random.Random(seed).sample(usable, max_pairs)
    sources = {word: index for index, word in enumerate(sorted({source for source, _ in drawn}))}
    targets = {word: index for index, word in enumerate(sorted({target for _, target in drawn}))}
    links = [(sources[source], targets[target]) for source, target in usable if source in sources and target in targets]
    return WordPairs(
        sources=[source_ids[word] for word in sources],
        targets=[target_ids[word] for word in targets],
        links=torch.tensor(links),
        num_dropped=len(found) - len(usable),
    )


def _encode(words: set[str], language: str, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Return the ids of each word that the tokenizer can write without unknown tokens."""
    ordered = sorted(words)
    encoded = tokenizer.encode_words(ordered, uses_spaces(language))
    return {
        word: ids for word, ids in zip(ordered, encoded, strict=True) if ids and tokenizer.special_ids.isdisjoint(ids)
    }


def token_ids_of(lexicon: Lexicon, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens of all words of a lexicon, in all languages."""
    words = {lexicon.source_language: {entry.word for entry in lexicon.entries}}
    for entry in lexicon.entries:
        for translation in entry.translations:
            words.setdefault(translation.language, set()).add(translation.word)
    encoded = [ids for language, chosen in words.items() for ids in _encode(chosen, language, tokenizer).values()]
    return frozenset(token for ids in encoded for token in ids)


def summarise(
    pairs: WordPairs, scores: Sequence[dict[str, float | None]], known: Tensor | None = None
) -> dict[str, Any]:
    """Combine the scores of all taps, in order, with the counts of words and pairs."""
    counts: dict[str, Any] = {
        "num_pairs": len(pairs.links),
        "num_source_words": len(pairs.sources),
        "num_target_words": len(pairs.targets),
        "num_dropped_pairs": pairs.num_dropped,
    }
    if known is not None:
        counts["num_known_source_words"] = int(known.sum())
    return counts | {name: [tap[name] for tap in scores] for name in scores[0]}


def measure_retrieval(
    folder: ModelFolder,
    lexicon: Lexicon,
    *,
    max_pairs: int = 2000,
    seed: int = 0,
    known_tokens: AbstractSet[int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, Any]]:
    """Measure retrieval for each language of a lexicon.

    Args:
        folder: model and tokenizer.
        lexicon: trained or held-out pairs.
        max_pairs: most pairs of a language; of more, `seed` draws.
        seed: seed of the draw.
        known_tokens: tokens seen in training; source words whose tokens and translations' tokens are all among them
            are scored separately.
        progress: called with the languages done and their number.

    Returns:
        By "source-target": num_pairs, num_source_words, num_target_words, num_dropped_pairs, and lists by tap of
        p_at_1, mean_cosine, anisotropy (see `RetrievalScores`) and csls_p_at_1; with `known_tokens` also
        num_known_source_words and lists of p_at_1_known and p_at_1_new, `None` if there is no such word.

    Raises:
        DataError: a language without a pair that the tokenizer can write.
    """
    results: dict[str, dict[str, Any]] = {}
    for done, language in enumerate(lexicon.languages, start=1):
        pairs = select_pairs(lexicon, language, folder.tokenizer, max_pairs, seed)
        vectors = sequence_vectors(folder, [*pairs.sources, *pairs.targets])
        num_sources = len(pairs.sources)
        known = None if known_tokens is None else pairs.known(known_tokens)
        scores = []
        for tap in vectors:
            sides = tap[:num_sources], tap[num_sources:]
            values = retrieval_scores(*sides, pairs.links).to_json(known)
            scores.append(values | {"csls_p_at_1": csls_p_at_1(*sides, pairs.links)})
        results[f"{lexicon.source_language}-{language}"] = summarise(pairs, scores, known)
        progress(done, len(lexicon.languages))
    return results
