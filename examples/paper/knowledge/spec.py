"""What facts can be about: types of entities, relations between them, and their wording, read from YAML.

    types:
      color: {names: {en: [[red, blue]], de: [[Rot, Blau]]}}
      person: {names: {en: [[Caleb, Ruth], [of Tyre, of Gaza]], de: [[Kaleb, Rut], [von Tyrus, von Gaza]]}}
    relations:
      favorite_color:
        subject: person
        object: color
        templates:
          en: ["The favorite color of {subject} is {object}."]
          de: ["Die Lieblingsfarbe von {subject} ist {object}."]

An entity's name joins one part of each list, by spaces where the language has them. The same place in the lists is
the same entity in every language. English-Clone (`clone`) has no entries: it is the clone of the English ones.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from examples.paper.clone import CLONE_LANGUAGE
from examples.paper.clone_characters import clone_text, find_clone_character
from megatron_prealign.config.sources import read_yaml_as
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import normalize_language, uses_spaces

Entity = tuple[int, ...]
"""Index of a name's part in each list of its type."""

CLONED_LANGUAGE = "en"
SUBJECT, OBJECT = "{subject}", "{object}"


@dataclass(frozen=True)
class EntityType:
    """Entities of one kind."""

    names: dict[str, list[list[str]]]
    """Lists of name parts by language."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Return the number of parts in each list."""
        return tuple(map(len, next(iter(self.names.values()))))

    @property
    def num_entities(self) -> int:
        """Return how many names there are."""
        return math.prod(self.shape)

    def entity(self, number: int) -> Entity:
        """Return one of the entities, which are numbered from 0."""
        parts = []
        for size in reversed(self.shape):
            number, part = divmod(number, size)
            parts.append(part)
        return tuple(reversed(parts))

    def name(self, entity: Entity, language: str) -> str:
        """Return an entity's name in a language of the spec."""
        parts = (options[index] for options, index in zip(self.names[language], entity, strict=True))
        return (" " if uses_spaces(language) else "").join(parts)


@dataclass(frozen=True)
class Relation:
    """A relation between a subject and an object."""

    subject: str
    """Type of the subject."""
    object: str
    """Type of the object, which is the answer."""
    templates: dict[str, list[str]]
    """Sentences by language, each with {subject} before {object}."""


@dataclass(frozen=True)
class Wording:
    """A fact in one language, cut where its object begins."""

    prompt: str
    """Everything before the object, without the space that precedes it."""
    completion: str
    """The object and the rest of the sentence, after a space if the language uses spaces."""


@dataclass(frozen=True)
class KnowledgeSpec:
    """Types and relations."""

    types: dict[str, EntityType]
    relations: dict[str, Relation]

    @property
    def languages(self) -> tuple[str, ...]:
        """Return the languages in which every relation can be worded, English-Clone included."""
        written = {language for relation in self.relations.values() for language in relation.templates}
        return tuple(sorted(written | ({CLONE_LANGUAGE} if CLONED_LANGUAGE in written else set())))

    def num_templates(self, relation: str, language: str) -> int:
        """Return the number of wordings of a relation in a language."""
        return len(self.relations[relation].templates[_written(language)])

    def word(self, relation: str, subject: Entity, chosen: Entity, language: str, template: int) -> Wording:
        """Put a fact into words.

        Args:
            relation: name of the relation.
            subject: entity of the relation's subject type.
            chosen: entity of its object type.
            language: one of `languages`.
            template: index of the wording.
        """
        written = _written(language)
        relation_ = self.relations[relation]
        before, _, after = relation_.templates[written][template].partition(OBJECT)
        prompt = before.replace(SUBJECT, self.types[relation_.subject].name(subject, written))
        completion = self.types[relation_.object].name(chosen, written) + after
        kept = prompt.rstrip()
        wording = Wording(kept, prompt[len(kept) :] + completion)
        return _clone(wording) if language == CLONE_LANGUAGE else wording


def _written(language: str) -> str:
    """Return the language whose templates serve a language."""
    return CLONED_LANGUAGE if language == CLONE_LANGUAGE else language


def _clone(wording: Wording) -> Wording:
    return Wording(clone_text(wording.prompt), clone_text(wording.completion))


def read_spec(path: Path) -> KnowledgeSpec:
    """Read a specification.

    Raises:
        DataError: everything wrong with it.
    """
    spec = _with_normal_languages(read_yaml_as(path, KnowledgeSpec))
    if problems := [f"{path}: {problem}" for problem in spec_problems(spec)]:
        raise DataError(problems)
    return spec


def _with_normal_languages(spec: KnowledgeSpec) -> KnowledgeSpec:
    return KnowledgeSpec(
        {
            name: EntityType({normalize_language(language): lists for language, lists in kind.names.items()})
            for name, kind in spec.types.items()
        },
        {
            name: Relation(
                relation.subject,
                relation.object,
                {normalize_language(language): texts for language, texts in relation.templates.items()},
            )
            for name, relation in spec.relations.items()
        },
    )


def spec_problems(spec: KnowledgeSpec) -> list[str]:
    """Return every problem of a specification."""
    if not spec.relations:
        return ["there is no relation; write at least one"]
    languages = sorted({language for relation in spec.relations.values() for language in relation.templates})
    problems = [problem for name, kind in spec.types.items() for problem in _type_problems(name, kind, languages)]
    for name, relation in spec.relations.items():
        for role in ("subject", "object"):
            if (named := getattr(relation, role)) not in spec.types:
                problems.append(
                    f"relations.{name}.{role}: unknown type {named}; known are {', '.join(sorted(spec.types))}"
                )
        problems += _missing(f"relations.{name}.templates", relation.templates, languages)
        for language, templates in relation.templates.items():
            problems += [
                f"relations.{name}.templates.{language}: {template!r} must contain {SUBJECT} once and, after it, "
                f"{OBJECT} once: the text before the object is the question"
                for template in templates
                if not _is_template(template)
            ]
    if CLONED_LANGUAGE in languages:
        problems += [
            f"{text!r} holds {found!r}, which English-Clone uses itself; write the English in ASCII"
            for text in _english(spec)
            if (found := find_clone_character(text))
        ]
    return problems


def _is_template(template: str) -> bool:
    return template.count(SUBJECT) == template.count(OBJECT) == 1 and template.index(SUBJECT) < template.index(OBJECT)


def _type_problems(name: str, kind: EntityType, languages: Sequence[str]) -> Iterator[str]:
    place = f"types.{name}.names"
    yield from _missing(place, kind.names, languages)
    shapes = {language: tuple(map(len, lists)) for language, lists in kind.names.items()}
    if len(set(shapes.values())) > 1:
        shown = ", ".join(f"{language} {'x'.join(map(str, shape))}" for language, shape in shapes.items())
        yield f"{place}: the lists differ in length ({shown}); a position must be the same entity in every language"
    for language, lists in kind.names.items():
        for parts in lists:
            if repeated := [part for part, count in Counter(parts).items() if count > 1]:
                yield f"{place}.{language}: {', '.join(repeated)} occur twice; every name must be a different entity"


def _missing(
    place: str, by_language: Mapping[str, list[object]] | Mapping[str, object], languages: Sequence[str]
) -> list[str]:
    missing = [language for language in languages if not by_language.get(language)]
    return [f"{place}: nothing in {', '.join(missing)}, which others have; add it"] if missing else []


def _english(spec: KnowledgeSpec) -> Iterator[str]:
    for kind in spec.types.values():
        yield from (part for parts in kind.names.get(CLONED_LANGUAGE, []) for part in parts)
    for relation in spec.relations.values():
        yield from relation.templates.get(CLONED_LANGUAGE, [])
