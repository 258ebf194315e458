"""The alignment section: the lexicon and loss of stage 1 (align-init)."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Contrastive alignment of a word with its translations at every tap."""

    lexicon_paths: tuple[str, ...] = ()
    """Lexicon files: TSV, MUSE text or JSONL."""

    source_language: str = "en"
    """Language of the source words of the lexicon."""

    target_language: str | None = None
    """Language of translations in files that name none (MUSE, two-column TSV)."""

    alignment_weight: float = 1.0
    """Weight of the alignment loss."""

    lm_weight: float = 1.0
    """Weight of the language-modelling loss beside it."""

    temperature: float = 0.1
    """Temperature of the contrastive loss (PreAlign sec. 3)."""

    word_batch_size: int = 128
    """Lexicon entries in one word microbatch over all data-parallel ranks; an entry is a word and its translations."""

    num_word_microbatches: int = 1
    """Word microbatches an optimizer step; negatives are those of one microbatch."""

    max_word_tokens: int = 16
    """Longest word in subwords; longer ones are truncated and counted."""

    similarity_chunk_rows: int = 4096
    """Anchors whose similarities are held at once; bounds memory."""
