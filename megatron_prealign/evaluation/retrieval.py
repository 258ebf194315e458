"""Word-translation retrieval at every tap: does a word's vector find its translation among all target words?

Words are encoded alone, as inside running text of their language, and a word's vector is the mean over its own
subwords (PreAlign sec. 3.1; the same rule as in stage 1).

Shape legend: W words, T source words, U target words, H hidden size, P word pairs.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from megatron_prealign.data.tokenizer import Tokenizer
from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.lexicon import Lexicon, uses_spaces

_TIE = 1e-6
"""Cosines closer than this are equal: the order of a sum depends on where a word stands in the batch."""
_WORDS_PER_BATCH = 256
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of one language pair at one tap."""

    p_at_1: float
    """Share of source words, in [0, 1], whose nearest target word is one of their translations; a tie is a miss."""
    mean_cosine: float
    """Mean cosine of the vectors of a pair."""
    anisotropy: float | None
    """Mean cosine of a source and a target word that are no pair; none where every two words are one."""


def retrieval_scores(sources: Tensor, targets: Tensor, links: Tensor) -> RetrievalScores:
    """Score vectors of source words against those of all target words.

    Args:
        sources: [T, H] float; each row has at least one link.
        targets: [U, H] float.
        links: [P, 2] int64, rows (source, target) of the pairs, each once.
    """
    unit_sources, unit_targets = normalize(sources.float(), dim=-1), normalize(targets.float(), dim=-1)
    hits = 0
    pair_sum = 0.0
    for start in range(0, len(unit_sources), _ROWS_AT_ONCE):
        cosines = unit_sources[start : start + _ROWS_AT_ONCE] @ unit_targets.T
        inside = (links[:, 0] >= start) & (links[:, 0] < start + len(cosines))
        is_pair = torch.zeros_like(cosines, dtype=torch.bool)
        is_pair[links[inside, 0] - start, links[inside, 1]] = True
        best_pair = cosines.masked_fill(~is_pair, -torch.inf).amax(dim=1)
        best_other = cosines.masked_fill(is_pair, -torch.inf).amax(dim=1)
        hits += int((best_pair > best_other + _TIE).sum())
        pair_sum += float(cosines[is_pair].double().sum())
    # The mean over all pairs of words needs no sampling: it is the dot product of the summed vectors.
    all_sum = float(unit_sources.double().sum(dim=0) @ unit_targets.double().sum(dim=0))
    num_others = len(sources) * len(targets) - len(links)
    return RetrievalScores(
        p_at_1=hits / len(sources),
        mean_cosine=pair_sum / len(links),
        anisotropy=(all_sum - pair_sum) / num_others if num_others else None,
    )


@dataclass(frozen=True)
class WordPairs:
    """The words of one language pair as token ids, and which translate each other."""

    sources: list[list[int]]
    targets: list[list[int]]
    links: Tensor
    """[P, 2] int64 rows (source, target)"""
    num_dropped: int
    """Pairs left out because the tokenizer can't write one of the words."""


def select_pairs(lexicon: Lexicon, language: str, tokenizer: Tokenizer, max_pairs: int, seed: int) -> WordPairs:
    """Collect the word pairs of one target language, at most `max_pairs` drawn by `seed`.

    The draw does not depend on the order of the lexicon. Among the words drawn, all translations that the lexicon
    knows count, those of pairs that were not drawn too.

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
            f"the lexicon has no pair {lexicon.source_language}-{language} whose words this tokenizer can write"
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


def tap_names(model: Any) -> list[str]:
    """Name the taps of a Hugging Face model: embedding, layers, and the output embedding where it is not tied."""
    layers = [f"layer_{layer}" for layer in range(1, int(model.config.num_hidden_layers) + 1)]
    return ["embedding", *layers, *([] if _is_tied(model) else ["output_embedding"])]


@torch.inference_mode()
def word_vectors(folder: ModelFolder, words: Sequence[Sequence[int]]) -> Tensor:
    """Return the vectors of words at every tap: [taps, W, H] fp32 on the CPU.

    The taps are the embedding output, the outputs of layers 1 .. L-1, that of layer L after the final norm, and the
    output-embedding rows of the word's tokens where they are not the input embedding's.
    """
    model = folder.model
    vectors = torch.empty(len(tap_names(model)), len(words), int(model.config.hidden_size))
    by_length = sorted(range(len(words)), key=lambda index: len(words[index]))
    for start in range(0, len(words), _WORDS_PER_BATCH):
        chosen = by_length[start : start + _WORDS_PER_BATCH]
        ids = torch.zeros(len(chosen), len(words[chosen[-1]]), dtype=torch.int64)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, index in enumerate(chosen):
            size = len(words[index])
            ids[row, :size] = torch.tensor(words[index])
            mask[row, :size] = True
        ids, mask = ids.to(folder.device), mask.to(folder.device)
        # Padding stands behind each word, where causal attention never looks.
        output = model.base_model(input_ids=ids, output_hidden_states=True, use_cache=False)
        taps = [*output.hidden_states[:-1], output.last_hidden_state]
        if not _is_tied(model):
            taps.append(model.get_output_embeddings().weight[ids])
        weights = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)
        for tap, states in enumerate(taps):
            vectors[tap, chosen] = (states.float() * weights).sum(dim=1).cpu()
    return vectors


def _is_tied(model: Any) -> bool:
    """Tell whether the output embedding is the input embedding."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def measure_retrieval(
    folder: ModelFolder,
    lexicon: Lexicon,
    *,
    max_pairs: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, Any]]:
    """Measure retrieval for each language of a lexicon.

    Args:
        folder: model and tokenizer.
        lexicon: trained or held-out pairs.
        max_pairs: pairs of a language, at most; more are drawn from by `seed`.
        seed: of the draw.
        progress: told the languages done.

    Returns:
        By "source-target": num_pairs, num_source_words, num_target_words, num_dropped_pairs, and lists by tap of
        p_at_1, mean_cosine and anisotropy (see `RetrievalScores`).

    Raises:
        DataError: a language without a pair that the tokenizer can write.
    """
    results: dict[str, dict[str, Any]] = {}
    for done, language in enumerate(lexicon.languages, start=1):
        pairs = select_pairs(lexicon, language, folder.tokenizer, max_pairs, seed)
        vectors = word_vectors(folder, [*pairs.sources, *pairs.targets])
        num_sources = len(pairs.sources)
        scores = [retrieval_scores(tap[:num_sources], tap[num_sources:], pairs.links) for tap in vectors]
        results[f"{lexicon.source_language}-{language}"] = {
            "num_pairs": len(pairs.links),
            "num_source_words": num_sources,
            "num_target_words": len(pairs.targets),
            "num_dropped_pairs": pairs.num_dropped,
            "p_at_1": [score.p_at_1 for score in scores],
            "mean_cosine": [score.mean_cosine for score in scores],
            "anisotropy": [score.anisotropy for score in scores],
        }
        progress(done, len(lexicon.languages))
    return results
