"""The lexicon: reading, cleaning and writing dictionaries."""

from megatron_prealign.lexicon.filters import filter_lexicon
from megatron_prealign.lexicon.lexicon import Lexicon, LexiconEntry, Translation
from megatron_prealign.lexicon.readers import read_lexicon
from megatron_prealign.text.languages import normalize_language, uses_spaces

__all__ = [
    "Lexicon",
    "LexiconEntry",
    "Translation",
    "filter_lexicon",
    "normalize_language",
    "read_lexicon",
    "uses_spaces",
]
