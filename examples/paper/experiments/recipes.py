"""Data recipes: what an experiment's text, tokenizer and lexicons are made from, as steps.

A recipe is a class in `RECIPES`: its fields are its parameters, and say which texts depend on them.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field as Limits

from examples.commands import make_permutation
from examples.paper.english_clone.data import CloneData
from examples.paper.experiments.specs import Stage
from examples.real_languages.data import DescriptionData, LexiconVariant
from examples.real_lexicons.data import RealData
from examples.steps import Step
from megatron_prealign.config.sources import validate_as
from megatron_prealign.errors import DataError

SWITCHED = {"concerns": "switched"}
LEXICON = {"concerns": "lexicon"}
BLEND = {"concerns": "all"}
"""All stages, but no file of the folder."""


def digest(content: object, length: int = 12) -> str:
    """Return a hash of plain data that is the same on every machine."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """Parameters of the data; a parameter that concerns only some stages has no part in the identity of others."""

    codeswitch_ratio: Annotated[float, Limits(ge=0, le=1)] = field(metadata=SWITCHED)
    """Share of the covered words that are switched, [0, 1]."""

    name = ""
    """What experiments call it."""
    texts: ClassVar[tuple[str, ...]] = ("plain", "switched")
    """What stages can read."""

    def identity(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """Return the parameters that these stages depend on."""
        switched = any(stage.text == "switched" for stage in stages)
        concerned = {None, "all", "switched" if switched else None}
        concerned.add("lexicon" if any(stage.reads_lexicon for stage in stages) else None)
        return self._values(part for part in fields(self) if part.metadata.get("concerns") in concerned)

    def _values(self, parts: Iterable[Field[Any]]) -> dict[str, Any]:
        """Return parameters but for those at their defaults: so one that comes later leaves identities as they are."""
        values = {part.name: getattr(self, part.name) for part in parts}
        defaults = {part.name: part.default for part in fields(self)}
        return {name: value for name, value in values.items() if value != defaults[name]}

    def steps(self, data: Path, packages: Path | None, stages: Sequence[Stage]) -> list[Step]:
        """Return the steps that make what stages read, in order; their names tell the data's folder.

        Args:
            data: folder of all recipes.
            packages: downloads already made.
            stages: of a cell.
        """
        folder = self.folder(data).name
        return [replace(step, name=f"{folder}_{step.name}") for step in self.own_steps(data, packages, stages)]

    def folder(self, data: Path) -> Path:
        """Return the folder, the same however text is switched, and whatever share of a lexicon is shown."""
        base = self._values(part for part in fields(self) if not part.metadata)
        return data / f"{self.name}-{digest(base, 8)}"

    @abstractmethod
    def own_steps(self, data: Path, packages: Path | None, stages: Sequence[Stage]) -> list[Step]:
        """Return the steps, with names that are unique in the folder."""

    @abstractmethod
    def blend(self, data: Path, text: str) -> list[dict[str, Any]]:
        """Return the datasets of a text with weights and languages, as data.blend takes them."""

    @abstractmethod
    def tokenizer(self, data: Path) -> Path:
        """Return the tokenizer."""

    @abstractmethod
    def lexicons(self, data: Path) -> tuple[Path, Path]:
        """Return the word pairs that are trained, and those whose retrieval is measured as held out."""

    @abstractmethod
    def files(self, data: Path) -> dict[str, str]:
        """Return the files that tasks name in braces."""


@dataclass(frozen=True, kw_only=True)
class EnglishClone(Recipe):
    """English from what is installed, and its clone."""

    vocab_size: int
    """Tokens of English; its clone has as many again."""
    max_words: int
    """Most frequent words of the text in the lexicons."""
    held_out_ratio: Annotated[float, Limits(ge=0, lt=1)]
    """Share of the words that is held out, [0, 1)."""
    clone_share: Annotated[float, Limits(gt=0, lt=1)]
    """Share of English-Clone in the text, (0, 1)."""
    lexicon_coverage: Annotated[float, Limits(gt=0, le=1)] = field(default=1.0, metadata=LEXICON)
    """Share of the other words that training is shown, (0, 1]."""
    lexicon_permuted: Annotated[float, Limits(ge=0, le=1)] = field(default=0.0, metadata=LEXICON)
    """Share of the words whose translations are those of others, [0, 1]: a control."""
    facts: int = 0
    """Invented facts of each relation and frequency that are stated in the English text."""
    fact_frequencies: tuple[int, ...] = ()
    """How often facts are stated."""

    name = "english_clone"
    texts: ClassVar[tuple[str, ...]] = ("plain", "switched", "swapped")
    """swapped: as much English-Clone as the others have English, and the other way round."""

    def _made(self, data: Path, packages: Path | None = None) -> CloneData:
        wheels = sorted(packages.glob("bible_alignments-*.whl")) if packages else []
        return CloneData(self.folder(data), self.vocab_size, self.max_words, self.held_out_ratio, *wheels[:1])

    @property
    def _lexicon_name(self) -> str:
        permuted = f"_permuted_{self.lexicon_permuted:g}" if self.lexicon_permuted else ""
        return f"{self._true_lexicon_name}{permuted}"

    @property
    def _true_lexicon_name(self) -> str:
        return "lexicon" if self.lexicon_coverage == 1 else f"lexicon_{self.lexicon_coverage:g}"

    @property
    def _switched_name(self) -> str:
        return f"english_{self.codeswitch_ratio:g}_{self._lexicon_name}"

    def own_steps(self, data: Path, packages: Path | None, stages: Sequence[Stage]) -> list[Step]:
        """Return the steps in order."""
        made = self._made(data, packages)
        texts = {stage.text for stage in stages}
        steps = [made.corpus_step, made.tokenizer_step, *made.clone_steps]
        smaller: list[Step] = []
        if "lexicon_coverage" in self.identity(stages):
            # The same words are held out, and more: a word's draw depends on the word alone.
            ratio = 1 - (1 - self.held_out_ratio) * self.lexicon_coverage
            smaller = [made.lexicon_step(self._true_lexicon_name, ratio)]
        if self.lexicon_permuted:
            true = made.folder / f"{self._true_lexicon_name}.tsv"
            paths = true, self.lexicons(data)[0]
            smaller.append(
                make_permutation(self._lexicon_name, *paths, self.lexicon_permuted, *made.clone_steps, *smaller)
            )
        steps += [*smaller, made.bake_step("clone", made.folder / "clone.jsonl"), made.transfer_step()]
        facts = [made.facts_step(self.facts, self.fact_frequencies)] if self.facts else []
        english = made.folder / "facts/mixed.en.jsonl" if facts else made.text("english")
        steps += facts
        if "plain" in texts:
            steps.append(made.bake_step("english", english, (), *facts))
        if "switched" in texts:
            lexicon, _ = self.lexicons(data)
            before = [*smaller, *facts]
            steps.append(made.switch_step(self._switched_name, lexicon, self.codeswitch_ratio, *before, text=english))
        if "swapped" in texts:
            cloned = made.folder / "english_cloned.jsonl"
            swapped = made.cloned_text_step("clone_english", made.text("english"), cloned, made.corpus_step)
            steps += [swapped, made.bake_step("english_cloned", cloned, (), swapped)]
            steps.append(made.bake_step("english_rest", made.text("clone_source")))
        return steps

    def blend(self, data: Path, text: str) -> list[dict[str, Any]]:
        """Return both languages."""
        shares = {"en": 1 - self.clone_share, "clone": self.clone_share}
        names = {"en": "english", "clone": "clone"}
        if text == "switched":
            names["en"] = self._switched_name
        if text == "swapped":
            names = {"clone": "english_cloned", "en": "english_rest"}
            shares = {"clone": 1 - self.clone_share, "en": self.clone_share}
        made = self._made(data)
        return [
            {"prefix": str(made.dataset(names[language])), "weight": shares[language], "language": language}
            for language in names
        ]

    def tokenizer(self, data: Path) -> Path:
        """Return the tokenizer of both languages."""
        return self._made(data).tokenizer

    def lexicons(self, data: Path) -> tuple[Path, Path]:
        """Return the words that training is shown, and those that every coverage holds out."""
        made = self._made(data)
        return made.folder / f"{self._lexicon_name}.tsv", made.lexicons[1]

    def files(self, data: Path) -> dict[str, str]:
        """Return validation texts, and the lexicons of full coverage."""
        made = self._made(data)
        texts = {f"valid_{language}": str(path) for language, path in made.validation_texts.items()}
        transfer = {
            f"transfer_{part.replace('.', '_')}": str(made.folder / f"transfer/{part}.jsonl")
            for part in ("train.en", "test.en", "test.clone")
        }
        facts = {"questions": str(made.folder / "facts/questions.jsonl")} if self.facts else {}
        lexicons = {"lexicon": str(made.lexicons[0]), "held_out_lexicon": str(made.lexicons[1])}
        return {**texts, **transfer, **facts, **lexicons}


@dataclass(frozen=True, kw_only=True)
class RealLanguages(Recipe):
    """English and other languages: help pages of LibreOffice, and public dictionaries."""

    languages: tuple[str, ...]
    """Beside English: de, es, fr, it, ru, tr, zh."""
    num_words: int
    """English words of the lexicon, the most frequent ones."""
    max_translations: int
    """Translations of a word in each language."""
    vocab_size: int
    """Tokens for all languages."""
    english_share: Annotated[float, Limits(gt=0, lt=1)]
    """Share of English in the text, (0, 1); the others divide the rest."""
    valid_ratio: float = 0.05
    """Share of pages that is held out for perplexity."""

    name = "real_languages"

    def _made(self, data: Path, packages: Path | None = None) -> RealData:
        return RealData(
            folder=self.folder(data),
            num_words=self.num_words,
            max_translations=self.max_translations,
            vocab_size=self.vocab_size,
            languages=self.languages,
            valid_ratio=self.valid_ratio,
            packages=packages,
        )

    @property
    def _switched_name(self) -> str:
        return f"en_{self.codeswitch_ratio:g}"

    def own_steps(self, data: Path, packages: Path | None, stages: Sequence[Stage]) -> list[Step]:
        """Return the steps in order."""
        made = self._made(data, packages)
        steps = [made.texts_step, made.dictionaries_step, made.lexicon_step, made.tokenizer_step]
        steps += [made.bake_step(language) for language in made.all_languages]
        if any(stage.text == "switched" for stage in stages):
            steps.append(made.switch_step(self._switched_name, self.codeswitch_ratio))
        return steps

    def blend(self, data: Path, text: str) -> list[dict[str, Any]]:
        """Return all languages."""
        made = self._made(data)
        names = {"en": self._switched_name} if text == "switched" else {}
        shares = dict.fromkeys(self.languages, (1 - self.english_share) / len(self.languages))
        return [
            {"prefix": str(made.dataset(names.get(language, language))), "weight": share, "language": language}
            for language, share in {"en": self.english_share, **shares}.items()
        ]

    def tokenizer(self, data: Path) -> Path:
        """Return the tokenizer of all languages."""
        return self._made(data).tokenizer

    def lexicons(self, data: Path) -> tuple[Path, Path]:
        """Return both lexicons."""
        return self._made(data).lexicons

    def files(self, data: Path) -> dict[str, str]:
        """Return validation texts and lexicons."""
        made = self._made(data)
        texts = {f"valid_{language}": str(made.text(f"{language}_valid")) for language in made.all_languages}
        return {**texts, "lexicon": str(made.lexicons[0]), "held_out_lexicon": str(made.lexicons[1])}


@dataclass(frozen=True, kw_only=True)
class PackageDescriptions(Recipe):
    """English and other languages: descriptions of Debian's packages, and the dictionaries that Debian packages."""

    languages: tuple[Literal["da", "de", "fr", "it"], ...]
    """Beside English."""
    num_words: int
    """English words of the lexicon, the most frequent ones of the text."""
    max_translations: int
    """Translations of a word in each language."""
    vocab_size: int
    """Tokens for all languages."""
    language_share: Annotated[float, Limits(gt=0, lt=1)] = field(metadata=BLEND)
    """Share of each language beside English in the text, (0, 1)."""
    lexicon_source: Literal["dictionaries", "messages"] = field(default="dictionaries", metadata=LEXICON)
    """What translates: dictionaries, or the messages of programs, aligned with their translations."""
    lexicon_share: Annotated[float, Limits(gt=0, le=1)] = field(default=1.0, metadata=LEXICON)
    """Share of the words that training is shown, (0, 1]."""
    lexicon_rank_by: Literal["dictionary", "corpus"] = field(default="dictionary", metadata=LEXICON)
    """What weights translations: the dictionary and general frequency, or the text as well."""
    lexicon_inflections: bool = field(default=False, metadata=LEXICON)
    """Add the forms of translations that the text has."""
    lexicon_permuted: Annotated[float, Limits(ge=0, le=1)] = field(default=0.0, metadata=LEXICON)
    """Share of the words whose translations are those of others, [0, 1]: a control."""

    name = "descriptions"

    def _made(self, data: Path, packages: Path | None = None) -> DescriptionData:
        return DescriptionData(
            folder=self.folder(data),
            languages=self.languages,
            num_words=self.num_words,
            max_translations=self.max_translations,
            vocab_size=self.vocab_size,
            packages=packages,
        )

    @property
    def _variant(self) -> LexiconVariant:
        return LexiconVariant(
            source=self.lexicon_source,
            share=self.lexicon_share,
            rank_by=self.lexicon_rank_by,
            inflections=self.lexicon_inflections,
            permuted=self.lexicon_permuted,
        )

    @property
    def _switched_name(self) -> str:
        return f"en_{self.codeswitch_ratio:g}_{self._variant.name}"

    def own_steps(self, data: Path, packages: Path | None, stages: Sequence[Stage]) -> list[Step]:
        """Return the steps in order."""
        made = self._made(data, packages)
        variants = dict.fromkeys([LexiconVariant(), replace(self._variant, permuted=0.0), self._variant])
        rankings = dict.fromkeys(variant.rank_by for variant in variants)
        steps = [made.texts_step, made.sources_step, *map(made.dictionaries_step, rankings)]
        steps += [made.messages_step] * (self.lexicon_source == "messages")
        steps += [*map(made.lexicon_step, variants), made.tokenizer_step, *map(made.bake_step, made.all_languages)]
        if any(stage.text == "switched" for stage in stages):
            steps.append(made.switch_step(self._switched_name, self._variant, self.codeswitch_ratio))
        return steps

    def blend(self, data: Path, text: str) -> list[dict[str, Any]]:
        """Return all languages."""
        made = self._made(data)
        names = {"en": self._switched_name} if text == "switched" else {}
        shares = {"en": 1 - self.language_share * len(self.languages)}
        shares |= dict.fromkeys(self.languages, self.language_share)
        return [
            {"prefix": str(made.dataset(names.get(language, language))), "weight": share, "language": language}
            for language, share in shares.items()
        ]

    def tokenizer(self, data: Path) -> Path:
        """Return the tokenizer of all languages."""
        return self._made(data).tokenizer

    def lexicons(self, data: Path) -> tuple[Path, Path]:
        """Return the pairs that training is shown, and those that every variant holds out."""
        made = self._made(data)
        return made.lexicons(self._variant)[0], made.lexicons(LexiconVariant())[1]

    def files(self, data: Path) -> dict[str, str]:
        """Return validation texts, the zero-shot task, parallel paragraphs, and the lexicons of the dictionaries."""
        made = self._made(data)
        texts = {f"valid_{language}": str(made.text(f"{language}_valid")) for language in made.all_languages}
        tests = {f"task_test_{language}": str(made.text(f"task/test.{language}")) for language in made.all_languages}
        trained, held_out = made.lexicons(LexiconVariant())
        others = {"task_train": str(made.text("task/train.en")), "parallel": str(made.text("parallel"))}
        return {**texts, **tests, **others, "lexicon": str(trained), "held_out_lexicon": str(held_out)}


RECIPES: Mapping[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (EnglishClone, RealLanguages, PackageDescriptions)
}


def make_recipe(name: str, parameters: Mapping[str, Any], texts: Iterable[str], place: str) -> Recipe:
    """Make a recipe of its parameters.

    Args:
        name: of the recipe.
        parameters: all that have no default.
        texts: that stages want to read.
        place: named in problems.

    Raises:
        DataError: an unknown recipe, parameter or text, or a wrong type.
    """
    if name not in RECIPES:
        raise DataError(f"{place}: there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    try:
        recipe: Recipe = validate_as(parameters, RECIPES[name])
    except DataError as error:
        raise DataError([f"{place}: data.{problem}" for problem in error.problems]) from None
    if unknown := sorted(set(texts) - set(recipe.texts)):
        raise DataError(f"{place}: recipe {name} has no text {', '.join(unknown)}; it has {', '.join(recipe.texts)}")
    return recipe
