"""Check of a dictionary's languages: py3langid on samples of its words."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from megatron_prealign.errors import ConfigError
from megatron_prealign.text.languages import primary_language

# One word is too little evidence; twenty are identified reliably.
_WORDS_A_SAMPLE = 20
_MOST_SAMPLES = 50
_FEWEST_SAMPLES = 5
_SHOWN = 5

# A mismatch has almost no votes for the named language and a clear majority for another.
_OWN_SHARE = 0.1
_OTHER_SHARE = 0.6

# Word lists can't distinguish these.
_RELATED = [
    frozenset(group.split())
    for group in (
        "da nb nn no",
        "bs hr sh sr",
        "id jv ms",
        "cs sk",
        "an ca es ext gl oc pt",
        "it lij vec",
        "gom hi mr ne sa",
        "xh zu",
        "ar ary arz",
        "lzh wuu yue zh",
        "az crh tr",
        "fil tl",
        "fa prs",
    )
]


@dataclass(frozen=True)
class Identification:
    """The language that samples of words look like."""

    language: str
    """The language that they are supposed to have."""

    votes: dict[str, int]
    """Number of samples by identified language, most first."""

    examples: tuple[str, ...]
    """Words of the first sample with the most frequent language."""

    @property
    def is_mismatch(self) -> bool:
        """Whether the words are clearly in another language."""
        total = sum(self.votes.values())
        own = _with_related(primary_language(self.language))
        (best, most), *_ = self.votes.items()
        share = sum(count for language, count in self.votes.items() if language in own) / total
        return best not in own and share < _OWN_SHARE and most / total >= _OTHER_SHARE

    def describe(self) -> str:
        """Return the evidence in words."""
        total = sum(self.votes.values())
        listed = ", ".join(f"{count} {language}" for language, count in list(self.votes.items())[:3])
        words = ", ".join(self.examples)
        return f"of {total} samples of {_WORDS_A_SAMPLE} words, {listed}; for example {words}"


def identify(words: Iterable[str], language: str) -> Identification | None:
    """Identify the language of words; the same words give the same answer.

    Args:
        words: in any order; repeats and words with other characters than letters are ignored.
        language: the tag that they are supposed to have.

    Returns:
        None for fewer than 100 words, or a language that py3langid does not know.
    """
    identifier = _identifier()
    distinct = sorted({word for word in words if all(part.isalpha() or not part.isalnum() for part in word)})
    count = min(len(distinct) // _WORDS_A_SAMPLE, _MOST_SAMPLES)
    known = {name for name, _ in identifier.rank("")}
    if count < _FEWEST_SAMPLES or not _with_related(primary_language(language)) & known:
        return None
    drawn = random.Random(0).sample(distinct, count * _WORDS_A_SAMPLE)
    samples = [drawn[start : start + _WORDS_A_SAMPLE] for start in range(0, len(drawn), _WORDS_A_SAMPLE)]
    guesses = [identifier.classify(" ".join(sample))[0] for sample in samples]
    votes = dict(Counter(guesses).most_common())
    best = next(iter(votes))
    return Identification(language, votes, tuple(samples[guesses.index(best)][:_SHOWN]))


def _with_related(language: str) -> frozenset[str]:
    return frozenset({language}).union(*(group for group in _RELATED if language in group))


@cache
def _identifier():  # type: ignore[no-untyped-def]
    """Load py3langid, which takes a second."""
    try:
        import py3langid
    except ImportError:
        raise ConfigError(
            "py3langid, which identifies languages, is not installed; pip install 'megatron-prealign[data]', or pass "
            "--no-check-languages"
        ) from None
    return py3langid
