"""The alignment section: words, sentences, loss and retrieval of stage 1 (align-init), and what stage 2 keeps of it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron_prealign.config.constraints import AT_LEAST_0, AT_LEAST_1, LOSS_WEIGHT, Range


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
