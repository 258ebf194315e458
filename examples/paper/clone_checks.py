"""What keeps a tokenizer from being cloned exactly, found by reading its tokenizer.json."""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

from examples.paper.clone_characters import CLONE_CHARACTERS, find_clone_character

Json = dict[str, Any]

_RETRAIN = "train one with tools/train_tokenizer.py --clonable"
_SUBCATEGORIES = {"L": "ultmo", "M": "nce", "N": "dlo", "P": "cdseifo", "S": "mcko", "Z": "slp", "C": "cfson"}
_CATEGORIES = frozenset(major + minor for major, minors in _SUBCATEGORIES.items() for minor in ("", *minors))

# The pieces of a pre-tokenizer pattern. Everything that is not named here is refused.
_PATTERN_PIECE = re.compile(
    r"""
      \\[pP]\{\^?(?P<category>\w+)\}             # Unicode category
    | \\(?P<escape>.)                            # \s, \r or an escaped literal
    | \((?P<group>\?(?:[:=!>]|<[=!])?)?          # opening of a group or look-around
    | (?P<class_open>\[\^?)
    | (?P<quantifier>[*+?]|\{[\d,]*\})
    | (?P<neutral>[)|^$.])
    | (?P<literal>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLASS_PIECE = re.compile(
    r"""
      \\[pP]\{\^?(?P<category>\w+)\}
    | (?P<range>[^\\\]\[]-[^\\\]\[])
    | \\(?P<escape>.)
    | (?P<class_close>\])
    | (?P<literal>.)
    """,
    re.VERBOSE | re.DOTALL,
)
# Classes and control characters that no mapped character enters or leaves by being cloned.
_NEUTRAL_ESCAPES = frozenset("sSdDrntf ")


def byte_alphabet() -> dict[int, str]:
    """Return the character that byte-level BPE writes for each byte (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(shifted)}


_ALPHABET = byte_alphabet()


def byte_level(text: str) -> str:
    """Return a text as byte-level BPE writes it."""
    return "".join(_ALPHABET[byte] for byte in text.encode())


def clone_problems(tokenizer: Json) -> list[str]:
    """Return every reason why a tokenizer.json can't be cloned; empty when it can."""
    model = tokenizer.get("model") or {}
    if model.get("type", "BPE" if "merges" in model else None) != "BPE":
        return [f"its model is {model.get('type')}, not byte-level BPE; {_RETRAIN}"]
    problems = _model_problems(model)
    if tokenizer.get("normalizer") is not None:
        kind = tokenizer["normalizer"].get("type")
        problems.append(f"its normalizer {kind} may change text in a way that does not carry over to the clone")
    problems += _pre_tokenizer_problems(tokenizer.get("pre_tokenizer"))
    if (tokenizer.get("decoder") or {}).get("type") != "ByteLevel":
        problems.append(f"its decoder is not ByteLevel, so it does not decode exactly; {_RETRAIN}")
    if not problems:
        problems = _vocabulary_problems(tokenizer)
    return problems


def _model_problems(model: Json) -> list[str]:
    """Check the settings of the BPE model."""
    reasons = {
        "dropout": "BPE dropout makes ids random",
        "byte_fallback": "byte_fallback belongs to SentencePiece-style BPE, not to byte-level BPE",
        "ignore_merges": "ignore_merges takes whole words from the vocabulary past the merges",
        "continuing_subword_prefix": "a subword prefix is not byte-level BPE",
        "end_of_word_suffix": "a word suffix is not byte-level BPE",
    }
    return [f"model.{name} is set: {reason}; {_RETRAIN}" for name, reason in reasons.items() if model.get(name)]


def _pre_tokenizer_problems(pre_tokenizer: Json | None) -> list[str]:
    """Check that every step splits clone text where it splits the original."""
    steps = _flatten(pre_tokenizer)
    byte_level_at = [index for index, step in enumerate(steps) if step.get("type") == "ByteLevel"]
    if byte_level_at != [len(steps) - 1]:
        return [f"its pre-tokenizer does not end with its only ByteLevel step, so it is not byte-level BPE; {_RETRAIN}"]
    problems: list[str] = []
    for step in steps:
        check = _STEP_CHECKS.get(step.get("type", ""))
        if check is None:
            problems.append(f"its pre-tokenizer step {step.get('type')} may split the clone elsewhere; {_RETRAIN}")
        else:
            problems += check(step)
    return problems


def _flatten(step: Json | None) -> list[Json]:
    """Return the steps of nested sequences in order."""
    if step is None:
        return []
    if step.get("type") != "Sequence":
        return [step]
    return [leaf for child in step["pretokenizers"] for leaf in _flatten(child)]


def _byte_level_problems(step: Json) -> list[str]:
    """Refuse GPT-2's own pattern: it names the contractions 's, 't, 're, 've, 'm, 'll, 'd."""
    if step.get("use_regex", True):
        return [f"its ByteLevel pre-tokenizer splits by GPT-2's pattern, which names English contractions; {_RETRAIN}"]
    return []


def _split_problems(step: Json) -> list[str]:
    """Check the pattern of a Split step."""
    pattern = step["pattern"]
    if "String" in pattern:
        return _literal_problem(set(pattern["String"]), pattern["String"])
    return pattern_problems(pattern["Regex"])


def _literal_problem(literals: set[str], pattern: str) -> list[str]:
    """Refuse literals that the clone replaces or introduces."""
    named = literals & (CLONE_CHARACTERS.keys() | set(CLONE_CHARACTERS.values()))
    if not named:
        return []
    characters = "".join(sorted(named))
    return [f"its pre-tokenizer names {characters!r} literally (contractions?) in {pattern!r}; {_RETRAIN}"]


def pattern_problems(pattern: str) -> list[str]:
    """Return why a regular expression may match clone text elsewhere than the original.

    Allowed are Unicode categories that hold a character exactly when they hold its clone, white space, control
    characters, literals that the clone leaves alone, groups, look-arounds and quantifiers.
    """
    position, in_class = 0, False
    literals: set[str] = set()
    unknown: list[str] = []
    while position < len(pattern):
        match = (_CLASS_PIECE if in_class else _PATTERN_PIECE).match(pattern, position)
        assert match is not None, "the last alternative of both takes any character"
        position = match.end()
        kind, text = match.lastgroup, match.group()
        if kind == "category" and not _category_is_kept(match["category"]):
            unknown.append(text)
        elif kind == "escape" and match["escape"] not in _NEUTRAL_ESCAPES:
            if match["escape"].isalnum():
                unknown.append(text)
            else:
                literals.add(match["escape"])
        elif kind == "range":
            literals.update(map(chr, range(ord(text[0]), ord(text[2]) + 1)))
        elif kind == "group" and text == "(?":
            unknown.append(pattern[match.start() : position + 2])
        elif kind == "literal":
            literals.add(text)
        in_class = kind == "class_open" or (in_class and kind != "class_close")
    problems = _literal_problem(literals, pattern)
    if unknown:
        problems.append(
            f"its pre-tokenizer pattern {pattern!r} uses {' '.join(dict.fromkeys(unknown))},"
            f" which may treat a character and its clone differently; {_RETRAIN}"
        )
    return problems


def _category_is_kept(category: str) -> bool:
    """Tell whether the category holds each mapped character exactly when it holds the clone."""
    return category in _CATEGORIES and all(
        unicodedata.category(original).startswith(category) == unicodedata.category(clone).startswith(category)
        for original, clone in CLONE_CHARACTERS.items()
    )


def _no_problems(step: Json) -> list[str]:
    """Accept a step that looks at white space or numeric characters only."""
    return []


_STEP_CHECKS: dict[str, Callable[[Json], list[str]]] = {
    "ByteLevel": _byte_level_problems,
    "Split": _split_problems,
    "Digits": _no_problems,
    "WhitespaceSplit": _no_problems,
}


def _vocabulary_problems(tokenizer: Json) -> list[str]:
    """Check ids, byte tokens, clone characters and added tokens."""
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    all_ids = {**vocabulary, **added}
    problems: list[str] = []
    if sorted(all_ids.values()) != list(range(len(all_ids))):
        problems.append("its ids have gaps or repeat; the clone of id i is i + V, so they must be 0, 1, ..., V - 1")
    if missing := [byte for byte, character in _ALPHABET.items() if character not in vocabulary]:
        problems.append(f"its vocabulary lacks {len(missing)} of the 256 byte tokens; {_RETRAIN}")
    clones = re.compile("|".join(byte_level(clone) for clone in CLONE_CHARACTERS.values()))
    if taken := [token for token in vocabulary if clones.search(token)]:
        problems.append(
            f"its vocabulary holds clone characters already ({len(taken)} tokens, the first {taken[0]!r});"
            " train it on text without Armenian, Syriac and NKo"
        )
    products = _ALPHABET_CHARACTERS | {"".join(split_merge(merge)) for merge in tokenizer["model"]["merges"]}
    for token in tokenizer.get("added_tokens", []):
        problems += _added_token_problems(token, products)
    return problems


_ALPHABET_CHARACTERS = frozenset(_ALPHABET.values())


def _added_token_problems(token: Json, products: set[str] | frozenset[str]) -> list[str]:
    """Check one added token: it is found in the text before BPE, and keeps its id in the clone."""
    content: str = token["content"]
    if find_clone_character(content):
        return [f"its added token {content!r} holds a clone character"]
    if content in products and not CLONE_CHARACTERS.keys().isdisjoint(content):
        return [f"its added token {content!r} is an ordinary token as well, so it is neither shared nor cloned"]
    if not token.get("special") and not CLONE_CHARACTERS.keys().isdisjoint(content):
        return [f"its added token {content!r} is not special: it is taken from text, where its clone would not be"]
    if token.get("single_word"):
        return [f"its added token {content!r} is single_word, which depends on the neighbouring characters"]
    return []


def split_merge(merge: str | list[str]) -> tuple[str, str]:
    """Return the two parts of a merge in either form of tokenizer.json (`"a b"` or `["a", "b"]`)."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
