"""The data of experiments with real languages: text, dictionaries, tokenizer and baked datasets, as steps."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from examples.baked_texts import BakedTexts
from examples.commands import make_step
from examples.real_lexicons.sources import DEFAULT_LANGUAGES, dictionary_files
from examples.steps import Step

EXAMPLE = Path("examples/real_lexicons")


@dataclass(frozen=True, kw_only=True)
class RealData(BakedTexts):
    """Texts of the packages' pages, and their lexicon."""

    seed: int = 1
    """Seed of the choice of held-out words."""
    languages: tuple[str, ...] = DEFAULT_LANGUAGES
    """All languages except English."""
    valid_ratio: float = 0.0
    """Share of pages held out for LANGUAGE_valid.jsonl."""
    packages: Path | None = None
    """Folder of packages already downloaded."""

    @property
    def lexicons(self) -> tuple[Path, Path]:
        """Trained and held-out word pairs."""
        return self.folder / "lexicon/lexicon.tsv", self.folder / "lexicon/held_out.tsv"

    def text(self, name: str) -> Path:
        """Return a text: a language, or LANGUAGE_valid."""
        return self.folder / f"sources/{name}.jsonl"

    @cached_property
    def texts_step(self) -> Step:
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
        return make_step("dictionaries", command, [output, report], self.texts_step)

    @cached_property
    def lexicon_step(self) -> Step:
        """Keeps the frequent words, and holds some out."""
        output = self.folder / "lexicon"
        command: list[object] = [EXAMPLE / "lexicons.py", "--lexicon", self.folder / "dictionaries.tsv"]
        command += ["--num-words", self.num_words, "--seed", self.seed, "--output", output]
        return make_step("lexicon", command, [output], self.dictionaries_step)

    def switch_step(self, name: str, ratio: float) -> Step:
        """Bakes code-switched English."""
        options = ["--lexicon", self.lexicons[0], "--source-language", "en", "--codeswitch-ratio", ratio, "--seed", 1]
        return self.bake_step("en", name, options, self.lexicon_step)
