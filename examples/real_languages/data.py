"""The data of experiments with descriptions of packages: text, lexicons, tokenizer and baked datasets, as steps."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from examples.baked_texts import BakedTexts
from examples.commands import make_permutation, make_step
from examples.real_languages.dictionaries import inputs
from examples.steps import Step

EXAMPLE = Path("examples/real_languages")


@dataclass(frozen=True, kw_only=True)
class LexiconVariant:
    """How a lexicon differs from the others of the same words."""

    source: str = "dictionaries"
    """Or messages, of programs and their translations."""
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
        parts += ["inflections"] * self.inflections + [self.source] * (self.source != "dictionaries")
        return "_".join(parts)

    @property
    def name(self) -> str:
        """Return a name that no other variant has."""
        return f"{self.folder_name}_permuted_{self.permuted:g}" if self.permuted else self.folder_name

    @property
    def options(self) -> list[object]:
        """Return the options of lexicon.py."""
        return ["--share", self.share, "--rank-by", self.rank_by, *["--inflections"] * self.inflections]


@dataclass(frozen=True, kw_only=True)
class DescriptionData(BakedTexts):
    """Texts of descriptions of packages, and their lexicons."""

    packages: Path | None = None
    """Folder of packages that are downloaded already; its folder lists, if it has one, holds those of apt."""

    def text(self, name: str) -> Path:
        """Return a text: a language, LANGUAGE_valid, parallel, or a part of the task."""
        return self.folder / f"texts/{name}.jsonl"

    def lexicons(self, variant: LexiconVariant) -> tuple[Path, Path]:
        """Return trained and held-out word pairs."""
        folder = self.folder / variant.folder_name
        trained = f"permuted_{variant.permuted:g}.tsv" if variant.permuted else "lexicon.tsv"
        return folder / trained, folder / "held_out.tsv"

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

    @cached_property
    def messages_step(self) -> Step:
        """Aligns the messages of programs with their translations."""
        output = self.folder / "messages.tsv"
        command: list[object] = [EXAMPLE / "messages.py", "--languages", *self.languages, "--output", output]
        if self.packages:
            command += ["--packages", self.packages.resolve()]
        return make_step("messages", command, [output])

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
        before = self.messages_step if variant.source == "messages" else self.dictionaries_step(variant.rank_by)
        output = self.folder / variant.folder_name
        command: list[object] = [EXAMPLE / "lexicon.py", "--lexicon", before.outputs[0], "--output", output]
        command += ["--num-words", self.num_words, "--max-translations", self.max_translations, *variant.options]
        for language in self.all_languages:
            command += ["--text", f"{language}={self.text(language)}"]
        return make_step(variant.name, command, [output], before, self.texts_step)

    def switch_step(self, name: str, variant: LexiconVariant, ratio: float) -> Step:
        """Bakes code-switched English."""
        lexicon, _ = self.lexicons(variant)
        options = ["--lexicon", lexicon, "--source-language", "en", "--codeswitch-ratio", ratio, "--seed", 1]
        return self.bake_step("en", name, options, self.lexicon_step(variant))
