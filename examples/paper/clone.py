"""English-Clone: English with its vocabulary duplicated, as a plain tokenizer.json (PreAlign, sec. 4.1).

The clone of a text is the text in other characters (`clone_characters`). The cloned tokenizer has the base
vocabulary at its old ids and the clone of token t at t + V, so clone text has the ids of the original plus V.
"""

import copy
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from examples.paper.clone_characters import CLONE_CHARACTERS, clone_text
from examples.paper.clone_checks import byte_level, clone_problems, split_merge
from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.lexicon.lexicon import Lexicon, Translation

CLONE_LANGUAGE = "clone"

# Byte-level BPE represents printable ASCII by itself, so the map works on token strings as on text.
_TOKEN_TO_CLONE = str.maketrans({original: byte_level(clone) for original, clone in CLONE_CHARACTERS.items()})
# Runs of ASCII letters between characters that are no letters: words as code-switching finds them.
_WORD = re.compile(r"(?<![^\W\d_])[A-Za-z]+(?![^\W\d_])")


def clone_tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Duplicate the vocabulary of a byte-level BPE tokenizer for English-Clone.

    With V base tokens (added tokens included) the result has 2 V: ids below V are the base tokenizer's, and id
    t + V is the clone of t. Shared tokens (special, white space only, without printable ASCII) have no clone; a
    placeholder that no text can reach fills t + V. For any text x without clone characters, with special tokens
    taken as plain text (`encode_special_tokens`), `ids(clone_text(x))[i]` is `ids(x)[i]` where that token is shared
    and `ids(x)[i] + V` elsewhere.

    Why it is exact: the bytes of clone characters meet first (lowest ranks), after which clone text is the base
    text token by token; every later merge is followed by its clone, which keeps the order of all merges.

    Args:
        tokenizer: content of a tokenizer.json.

    Returns:
        Content of the cloned tokenizer.json; the argument is left as it is.

    Raises:
        DataError: every reason why this tokenizer can't be cloned.
    """
    if problems := clone_problems(tokenizer):
        raise DataError([f"the tokenizer can't be cloned: {problem}" for problem in problems])
    cloned = copy.deepcopy(tokenizer)
    base = _all_tokens(tokenizer)
    size = len(base)
    shared = shared_ids(tokenizer)
    vocabulary = dict(sorted(base.items(), key=lambda item: item[1]))
    for token, index in list(vocabulary.items()):
        vocabulary[f"<|shared:{index}|>" if index in shared else clone_token(token)] = index + size
    if len(vocabulary) != 2 * size:
        raise DataError("the tokenizer can't be cloned: its vocabulary holds names of the form <|shared:0|>")
    cloned["model"]["vocab"] = vocabulary
    cloned["model"]["merges"] = _cloned_merges(tokenizer["model"]["merges"])
    return cloned


def shared_ids(tokenizer: dict[str, Any]) -> frozenset[int]:
    """Return the ids that text and its clone have in common: added tokens, and tokens without printable ASCII."""
    added = {token["id"] for token in tokenizer.get("added_tokens", [])}
    vocabulary = tokenizer["model"]["vocab"].items()
    return frozenset(added | {index for token, index in vocabulary if clone_token(token) == token})


def clone_ids(ids: Iterable[int], shared: frozenset[int], size: int) -> list[int]:
    """Return the ids of a text's clone from those of the text.

    Args:
        ids: token ids of the text by the base tokenizer.
        shared: what `shared_ids` gives for the base tokenizer.
        size: number of base ids.
    """
    return [index if index in shared else index + size for index in ids]


def _all_tokens(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Return every token of a tokenizer.json with its id, added tokens included."""
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    return {**tokenizer["model"]["vocab"], **added}


def clone_token(token: str) -> str:
    """Return the clone of a byte-level token string; a shared token is its own clone."""
    return token.translate(_TOKEN_TO_CLONE)


def _cloned_merges(merges: list[Any]) -> list[list[str]]:
    """Return one merge for the two bytes of each clone character, then every merge followed by its clone."""
    result = [list(byte_level(clone)) for clone in CLONE_CHARACTERS.values()]
    for left, right in map(split_merge, merges):
        result.append([left, right])
        clone = [clone_token(left), clone_token(right)]
        if clone != [left, right]:
            result.append(clone)
    return result


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count the words of ASCII letters in texts, case-sensitive."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text))
    return counts


def frequent_words(counts: Counter[str], min_count: int = 1, max_words: int | None = None) -> list[str]:
    """Return words by falling frequency, alphabetically among equals.

    Args:
        counts: occurrences of each word.
        min_count: leave out words with fewer occurrences.
        max_words: keep at most that many; None keeps all.

    Raises:
        ConfigError: a limit is below 1.
    """
    if min_count < 1 or (max_words is not None and max_words < 1):
        raise ConfigError(f"min_count ({min_count}) and max_words ({max_words}) must be at least 1")
    frequent = [word for word, count in counts.items() if count >= min_count]
    return sorted(frequent, key=lambda word: (-counts[word], word))[:max_words]


def clone_lexicon(words: Iterable[str], source_language: str = "en") -> Lexicon:
    """Pair each word with its clone.

    Raises:
        DataError: there is no word, or one holds clone characters or nothing that has a clone.
    """
    pairs = [(word, Translation(clone_text(word), CLONE_LANGUAGE)) for word in words]
    if unchanged := [word for word, translation in pairs if word == translation.word]:
        raise DataError(f"{len(unchanged)} words have no character with a clone, the first {unchanged[0]!r}")
    if not pairs:
        raise DataError("no word is left for the clone lexicon; lower the minimum count or give more text")
    return Lexicon.from_pairs(source_language, pairs)
