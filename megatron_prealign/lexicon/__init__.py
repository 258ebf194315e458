"""The lexicon: reading, cleaning and writing dictionaries, and English-Clone with its own."""

from megatron_prealign.lexicon.clone import (
    CLONE_LANGUAGE,
    clone_lexicon,
    clone_tokenizer,
    count_words,
    frequent_words,
)
from megatron_prealign.lexicon.clone_characters import clone_text, find_clone_character, unclone_text
from megatron_prealign.lexicon.filters import filter_lexicon
from megatron_prealign.lexicon.lexicon import Lexicon, LexiconEntry, Translation
from megatron_prealign.lexicon.readers import read_lexicon
from megatron_prealign.text.languages import normalize_language, uses_spaces

__all__ = [
    "CLONE_LANGUAGE",
    "Lexicon",
    "LexiconEntry",
    "Translation",
    "clone_lexicon",
    "clone_text",
    "clone_tokenizer",
    "count_words",
    "filter_lexicon",
    "find_clone_character",
    "frequent_words",
    "normalize_language",
    "read_lexicon",
    "unclone_text",
    "uses_spaces",
]
