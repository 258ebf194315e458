"""Sentence splitting with nltk's Punkt models, which must be on disk: nothing is downloaded."""

from pathlib import Path

from megatron_prealign.errors import DataError


class SentenceSplitter:
    """Splits text of one language."""

    def __init__(self, language: str) -> None:
        """Load the model.

        Args:
            language: Its English name, as Punkt's models are named: english, german, ...

        Raises:
            DataError: If the model is not on disk.
        """
        from nltk.tokenize import PunktTokenizer  # deferred: most bakes do not need it

        try:
            self._tokenizer = PunktTokenizer(language)
        except LookupError:
            raise DataError(
                f"--split-sentences: no Punkt model {language!r} on this machine; unpack nltk's punkt_tab.zip to "
                f"{Path('nltk_data', 'tokenizers')} in your home folder, or name its parent in NLTK_DATA"
            ) from None

    def split(self, text: str) -> list[str]:
        """Return the sentences of a text, without the white space between them."""
        sentences: list[str] = self._tokenizer.tokenize(text)
        return sentences
