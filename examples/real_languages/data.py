"""The data of experiments with descriptions of packages: text, lexicons, tokenizer and baked datasets, as steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from examples.real_languages.dictionaries import inputs
from examples.steps import Step, make_permutation, make_step

EXAMPLE = Path("examples/real_languages")


@dataclass(frozen=True, kw_only=True)
class LexiconVariant:
    """How a lexicon differs from the others of the same words."""

    share: float = 1.0
    """Of the words, (0, 1]."""
    rank_by: str = "dictionary"
    """Or corpus."""
    inflections: bool = False
    """With the forms that the text has."""
    permuted: float = 0.0
    """Share of the words that have translations of others, [0, 1]."""

    @property
    def folder_name(self) -> str:
        """Return the name of the folder that lexicon.py writes."""
        parts = ["lexicon", *([f"{self.share:g}"] if self.share < 1 else []), self.rank_by]
        return "_".join(parts + ["inflections"] * self.inflections)

    @property
    def name(self) -> str:
        """Return a name that no other variant has."""
        return f"{self.folder_name}_permuted_{self.permuted:g}" if self.permuted else self.folder_name

    @property
    def options(self) -> list[object]:
        """Return the options of lexicon.py."""
        return ["--share", self.share, "--rank-by", self.rank_by, *["--inflections"] * self.inflections]


@dataclass(frozen=True, kw_only=True)
class DescriptionData:
    """A folder of English and other languages, whose text is not parallel."""

    folder: Path
    """Folder of everything."""
    languages: tuple[str, ...]
    """Beside English."""
    num_words: int
    """English words of the lexicon, the most frequent ones of the text."""
    max_translations: int
    """Translations of a word in each language."""
    vocab_size: int
    """Tokens for all languages."""
    packages: Path | None = None
    """Folder of packages that are downloaded already; its folder lists, if it has one, holds those of apt."""

    @property
    def all_languages(self) -> tuple[str, ...]:
        """English and the others."""
        return ("en", *self.languages)

    @property
    def tokenizer(self) -> Path:
        """Tokenizer of all languages."""
        return self.folder / "tokenizer"

    def text(self, name: str) -> Path:
        """Return a text: a language, LANGUAGE_valid, parallel, or a part of the task."""
        return self.folder / f"texts/{name}.jsonl"

    def lexicons(self, variant: LexiconVariant) -> tuple[Path, Path]:
        """Return trained and held-out word pairs."""
        folder = self.folder / variant.folder_name
        trained = f"permuted_{variant.permuted:g}.tsv" if variant.permuted else "lexicon.tsv"
        return folder / trained, folder / "held_out.tsv"

    def dataset(self, name: str) -> Path:
        """Return the prefix of a baked dataset."""
        return self.folder / f"{name}_text_document"

    @cached_property
    def texts_step(self) -> Step:
        """Downloads descriptions."""
        command: list[object] = [EXAMPLE / "descriptions.py", "--output", self.folder / "texts"]
        command += ["--languages", *self.languages]
        if self.packages and (self.packages / "lists").is_dir():
            command += ["--lists", (self.packages / "lists").resolve()]
        return make_step("texts", command, [self.folder / "texts"])

    @cached_property
    def sources_step(self) -> Step:
        """Downloads dictionaries."""
        command: list[object] = [EXAMPLE / "dictionaries.py", "--output", self.folder / "dictionaries"]
        command += ["--languages", *self.languages]
        if self.packages:
            command += ["--packages", self.packages.resolve()]
        return make_step("sources", command, [self.folder / "dictionaries"])

    def dictionaries_step(self, rank_by: str) -> Step:
        """Merges the dictionaries; words that two languages share stay, since only their wrong senses would remain."""
        output = self.folder / f"dictionaries_{rank_by}.tsv"
        command: list[object] = ["tools/build_lexicon.py", "dictionaries", "--source-language", "en", "--multi-word"]
        command += ["--no-identity", *inputs(self.languages, self.folder / "dictionaries")]
        # The corpus may want a translation that is rare elsewhere.
        command += ["--no-rank"] if rank_by == "corpus" else ["--max-translations", 4]
        return make_step(f"dictionaries_{rank_by}", [*command, "--output", output], [output], self.sources_step)

    def lexicon_step(self, variant: LexiconVariant) -> Step:
        """Keeps the words that are frequent in the text, and holds some out; permutes them."""
        if variant.permuted:
            true = replace(variant, permuted=0.0)
            paths = self.lexicons(true)[0], self.lexicons(variant)[0]
            return make_permutation(variant.name, *paths, variant.permuted, self.lexicon_step(true))
        before = self.dictionaries_step(variant.rank_by)
        output = self.folder / variant.folder_name
        command: list[object] = [EXAMPLE / "lexicon.py", "--lexicon", before.outputs[0], "--output", output]
        command += ["--num-words", self.num_words, "--max-translations", self.max_translations, *variant.options]
        for language in self.all_languages:
            command += ["--text", f"{language}={self.text(language)}"]
        return make_step(variant.name, command, [output], before, self.texts_step)

    @cached_property
    def tokenizer_step(self) -> Step:
        """Trains one tokenizer on the text of all languages."""
        command: list[object] = ["tools/train_tokenizer.py", "--vocab-size", self.vocab_size]
        for language in self.all_languages:
            command += ["--input", f"{language}={self.text(language)}"]
        return make_step("tokenizer", [*command, "--output", self.tokenizer], [self.tokenizer], self.texts_step)

    def bake_step(self, language: str, name: str = "", options: Sequence[object] = (), *before: Step) -> Step:
        """Bakes the text of a language, under its own name or another."""
        name = name or language
        command: list[object] = ["tools/preprocess_codeswitch.py", "--append-eod", "--json-key", "text"]
        command += ["--input", self.text(language), "--output-prefix", self.folder / name]
        command += ["--tokenizer-model", self.tokenizer, *options]
        outputs = [Path(f"{self.dataset(name)}{suffix}") for suffix in (".bin", ".idx", ".json")]
        return make_step(f"bake_{name}", command, outputs, self.tokenizer_step, *before)

    def switch_step(self, name: str, variant: LexiconVariant, ratio: float) -> Step:
        """Bakes code-switched English."""
        lexicon, _ = self.lexicons(variant)
        options = ["--lexicon", lexicon, "--source-language", "en", "--codeswitch-ratio", ratio, "--seed", 1]
        return self.bake_step("en", name, options, self.lexicon_step(variant))
