"""The alignment section: words, sentences, loss and retrieval of stage 1 (align-init), and what stage 2 keeps of it.

Taps have names, by which a configuration gives them weights in the alignment loss.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from megatron_prealign.config.constraints import AT_LEAST_0, AT_LEAST_1, LOSS_WEIGHT, Range
from megatron_prealign.errors import ConfigError

_LARGEST_WEIGHT = 1e6
"""With larger ones, the smaller weights would vanish in the sum."""
EMBEDDING, OUTPUT_EMBEDDING = "embedding", "output_embedding"


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Contrastive alignment of words, and of sentences, with their translations at every tap."""

    lexicon_paths: tuple[str, ...] = ()
    """Lexicon files, in any format of docs/lexicons.md."""

    source_language: str = "en"
    """Language of the source words of the lexicon."""

    target_language: str | None = None
    """Language of the translations, for files that do not name it (MUSE, two-column TSV)."""

    held_out_lexicon_paths: tuple[str, ...] = ()
    """Lexicon files of words that are never trained on; each validation measures their retrieval."""

    alignment_weight: Annotated[float, LOSS_WEIGHT] = 1.0
    """Weight of the alignment loss of words."""

    lm_weight: Annotated[float, LOSS_WEIGHT] = 1.0
    """Weight of the language-modelling loss in stage 1."""

    temperature: Annotated[float, Range(0.001, 1000)] = 0.1
    """Temperature of the contrastive loss (PreAlign sec. 3)."""

    taps: str = "all"
    """Points of the model to align: all, embeddings, middle (third of the layers), or names with optional weights, such
    as embedding,layer_3:0.5,output_embedding."""

    word_batch_size: Annotated[int, Range(2, note=" (a lone entry has no negatives)")] = 128
    """Lexicon entries in one word microbatch over all data-parallel ranks; an entry is a word and its translations."""

    num_word_microbatches: Annotated[int, Range(1, 1 << 20)] = 1
    """Word microbatches per optimizer step; negatives come from the same microbatch."""

    max_word_tokens: Annotated[int, AT_LEAST_1] = 16
    """Longest word in subwords; longer words are truncated and counted."""

    num_hard_negatives: Annotated[int, AT_LEAST_0] = 0
    """Source words with the most similar spelling, added for each entry as further negatives."""

    word_row_length: Annotated[int, AT_LEAST_1] = 64
    """Positions per row of packed words; at least max_word_tokens."""

    similarity_memory_mib: Annotated[int, AT_LEAST_1] = 512
    """Maximum memory for similarities, in MiB; larger batches are computed in chunks of rows."""

    sentence_paths: tuple[str, ...] = ()
    """Files of aligned sentences: TSV with languages in its first line, or JSONL with an object of texts by language on
    each line; a row with two languages or more is a group. Without lexicon_paths, sentences alone are aligned."""

    sentence_weight: Annotated[float, LOSS_WEIGHT] = 1.0
    """Weight of the alignment loss of sentences; in stage 2 its initial value, every maintain_interval steps."""

    sentence_batch_size: Annotated[int, Range(2, note=" (a lone group has no negatives)")] = 32
    """Groups of sentences in one sentence microbatch over all data-parallel ranks, each in all its languages."""

    num_sentence_microbatches: Annotated[int, Range(1, 1 << 20)] = 1
    """Sentence microbatches per optimizer step; negatives come from the same microbatch."""

    max_sentence_tokens: Annotated[int, AT_LEAST_1] = 128
    """Longest sentence in tokens, and positions of a row into which sentences are packed; longer ones are left out and
    counted."""

    eval_word_pairs: Annotated[int, AT_LEAST_0] = 1000
    """Word pairs per language whose retrieval each validation measures; 0 = no retrieval."""

    patience: Annotated[int, AT_LEAST_0] = 0
    """Validations without better held-out retrieval after which stage 1 ends; 0 = never."""

    maintain_interval: Annotated[int, AT_LEAST_0] = 0
    """Steps of stage 2 between alignment losses, starting with the first step; 0 = none. The fields above set words,
    sentences, taps and temperature."""

    maintain_weight: Annotated[float, LOSS_WEIGHT] = 0.5
    """Weight of the alignment loss of words in those steps: its value at the start of stage 2; 0 = none."""

    maintain_decay: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule of the weights of words and sentences in stage 2: constant, or falling to 0 at the last step, linearly
    or along half a cosine wave."""


def tap_names(num_layers: int, *, tied: bool) -> list[str]:
    """Name a model's taps in order: L + 2, one less with tied embeddings, where the last would repeat the first."""
    layers = [f"layer_{number}" for number in range(1, num_layers + 1)]
    return [EMBEDDING, *layers, *([] if tied else [OUTPUT_EMBEDDING])]


def tap_weights(choice: str, num_layers: int, *, tied: bool) -> list[float]:
    """Return the weight of each tap, summing to 1; 0 = not in the loss.

    Args:
        choice: all, embeddings, middle (the middle third of the layers), or names with or without a weight,
            like "embedding,layer_3:0.5".
        num_layers: layers of the model.
        tied: whether input and output embeddings are one matrix.

    Raises:
        ConfigError: Lists every tap that does not exist, is named twice, or has no weight above 0.
    """
    names = tap_names(num_layers, tied=tied)
    third = num_layers // 3
    groups = {
        "all": names,
        "embeddings": [name for name in (EMBEDDING, OUTPUT_EMBEDDING) if name in names],
        "middle": names[1 + third : 1 + num_layers - third],
    }
    group = groups.get(choice.strip())
    chosen = _read_weights(choice, names, groups) if group is None else dict.fromkeys(group, 1.0)
    total = sum(chosen.values())
    return [chosen.get(name, 0.0) / total for name in names]


def _read_weights(choice: str, names: list[str], groups: Iterable[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    problems = []
    for part in choice.split(","):
        name, _, number = (piece.strip() for piece in part.partition(":"))
        if name not in names:
            if name in groups:
                hint = f"give {name} alone, without a weight"
            elif close := difflib.get_close_matches(name, [*names, *groups], n=1):
                hint = f"did you mean {close[0]}?"
            else:
                hint = f"the taps are {names[0]}, {names[1]} .. {names[-1]}"
            problems.append(f"--alignment.taps: this model has no tap {name!r}; {hint}")
        elif name in weights:
            problems.append(f"--alignment.taps names {name} twice; give it one weight")
        else:
            weights[name] = _read_weight(number)
            if not 1 / _LARGEST_WEIGHT <= weights[name] <= _LARGEST_WEIGHT:
                bounds = f"a number from {1 / _LARGEST_WEIGHT:g} to {_LARGEST_WEIGHT:g}"
                problems.append(f"--alignment.taps: the weight of {name} must be {bounds}, got {number!r}")
    if problems:
        raise ConfigError(problems)
    return weights


def _read_weight(number: str) -> float:
    try:
        return float(number or 1)
    except ValueError:
        return float("nan")
