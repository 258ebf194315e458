"""The data of experiments with real languages: text, dictionaries, tokenizer and baked datasets, as steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from examples.real_lexicons.sources import DEFAULT_LANGUAGES, dictionary_files
from examples.steps import Step, make_step

EXAMPLE = Path("examples/real_lexicons")


@dataclass(frozen=True, kw_only=True)
class RealData:
    """A folder of English and other languages, whose text is not parallel."""

    folder: Path
    """Folder of all outputs."""
    num_words: int
    """English words of the lexicon, the most frequent ones."""
    max_translations: int
    """Translations of a word in each language."""
    vocab_size: int
    """Tokens for all languages."""
    seed: int = 1
    """Seed of the choice of held-out words."""
    languages: tuple[str, ...] = DEFAULT_LANGUAGES
    """All languages except English."""
    valid_ratio: float = 0.0
    """Share of pages held out for LANGUAGE_valid.jsonl."""
    packages: Path | None = None
    """Folder of packages already downloaded."""

    @property
    def all_languages(self) -> tuple[str, ...]:
        """English and the others."""
        return ("en", *self.languages)

    @property
    def tokenizer(self) -> Path:
        """Tokenizer of all languages."""
        return self.folder / "tokenizer"

    @property
    def lexicons(self) -> tuple[Path, Path]:
        """Trained and held-out word pairs."""
        return self.folder / "lexicon/lexicon.tsv", self.folder / "lexicon/held_out.tsv"

    def text(self, name: str) -> Path:
        """Return a text: a language, or LANGUAGE_valid."""
        return self.folder / f"sources/{name}.jsonl"

    def dataset(self, name: str) -> Path:
        """Return the prefix of a baked dataset."""
        return self.folder / f"{name}_text_document"

    @cached_property
    def sources_step(self) -> Step:
        """Downloads dictionaries and text."""
        command: list[object] = [EXAMPLE / "sources.py", "--output", self.folder / "sources"]
        if self.packages:
            command += ["--packages", self.packages.resolve()]
        if self.languages != DEFAULT_LANGUAGES:
            command += ["--languages", *self.languages]
        if self.valid_ratio:
            command += ["--valid-ratio", self.valid_ratio]
        return make_step("sources", command, [self.folder / "sources"])

    @cached_property
    def dictionaries_step(self) -> Step:
        """Merges the dictionaries: filters, no entries of several words, the likeliest translations."""
        output, report = self.folder / "dictionaries.tsv", self.folder / "dictionaries.json"
        command: list[object] = ["tools/build_lexicon.py", "dictionaries", "--source-language", "en", "--multi-word"]
        for language in self.languages:
            command += ["--input", f"{language}={self.folder}/sources/{dictionary_files(language)[0]}"]
        command += ["--max-translations", self.max_translations, "--output", output, "--report", report]
        return make_step("dictionaries", command, [output, report], self.sources_step)

    @cached_property
    def lexicon_step(self) -> Step:
        """Keeps the frequent words, and holds some out."""
        output = self.folder / "lexicon"
        command: list[object] = [EXAMPLE / "lexicons.py", "--lexicon", self.folder / "dictionaries.tsv"]
        command += ["--num-words", self.num_words, "--seed", self.seed, "--output", output]
        return make_step("lexicon", command, [output], self.dictionaries_step)

    @cached_property
    def tokenizer_step(self) -> Step:
        """Trains one tokenizer on the text of all languages."""
        command: list[object] = ["tools/train_tokenizer.py", "--vocab-size", self.vocab_size]
        for language in self.all_languages:
            command += ["--input", f"{language}={self.text(language)}"]
        return make_step("tokenizer", [*command, "--output", self.tokenizer], [self.tokenizer], self.sources_step)

    def bake_step(self, language: str, name: str = "", options: Sequence[object] = (), *before: Step) -> Step:
        """Bakes the text of a language, under its own name or another."""
        name = name or language
        command: list[object] = ["tools/preprocess_codeswitch.py", "--append-eod", "--json-key", "text"]
        command += ["--input", self.text(language), "--output-prefix", self.folder / name]
        command += ["--tokenizer-model", self.tokenizer, *options]
        outputs = [Path(f"{self.dataset(name)}{suffix}") for suffix in (".bin", ".idx", ".json")]
        return make_step(f"bake_{name}", command, outputs, self.tokenizer_step, *before)

    def switch_step(self, name: str, ratio: float) -> Step:
        """Bakes code-switched English."""
        options = ["--lexicon", self.lexicons[0], "--source-language", "en", "--codeswitch-ratio", ratio, "--seed", 1]
        return self.bake_step("en", name, options, self.lexicon_step)
