"""One text per language, its tokenizer and its baked datasets, as steps: what recipes of real languages share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from examples.commands import make_bake, make_step
from examples.steps import Step


@dataclass(frozen=True, kw_only=True)
class BakedTexts(ABC):
    """A folder of English and other languages, whose text is not parallel."""

    folder: Path
    """Folder of all outputs."""
    languages: tuple[str, ...]
    """All languages except English."""
    num_words: int
    """English words of the lexicon, the most frequent ones."""
    max_translations: int
    """Translations of a word in each language."""
    vocab_size: int
    """Tokens for all languages."""

    @property
    def all_languages(self) -> tuple[str, ...]:
        """English and the others."""
        return ("en", *self.languages)

    @property
    def tokenizer(self) -> Path:
        """Tokenizer of all languages."""
        return self.folder / "tokenizer"

    @abstractmethod
    def text(self, name: str) -> Path:
        """Return the text of a language."""

    @property
    @abstractmethod
    def texts_step(self) -> Step:
        """The step that makes the text of all languages."""

    def dataset(self, name: str) -> Path:
        """Return the prefix of a baked dataset."""
        return self.folder / f"{name}_text_document"

    @cached_property
    def tokenizer_step(self) -> Step:
        """Trains one tokenizer on the text of all languages."""
        # The published results of these recipes were measured with this splitting rule.
        command: list[object] = ["tools/train_tokenizer.py", "--clonable", "--vocab-size", self.vocab_size]
        for language in self.all_languages:
            command += ["--input", f"{language}={self.text(language)}"]
        return make_step("tokenizer", [*command, "--output", self.tokenizer], [self.tokenizer], self.texts_step)

    def bake_step(self, language: str, name: str = "", options: Sequence[object] = (), *before: Step) -> Step:
        """Bakes the text of a language, under its own name or another."""
        name = name or language
        command = ["--input", self.text(language), "--tokenizer-model", self.tokenizer, *options]
        return make_bake(f"bake_{name}", self.folder / name, command, self.tokenizer_step, *before)
