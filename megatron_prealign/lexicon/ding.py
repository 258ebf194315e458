"""Reader of Ding word lists: `Bank {f}; Ufer {n} (Fluss) | Banken {pl} :: bank; shore | banks`."""

from collections.abc import Iterator

from megatron_prealign.lexicon.glosses import split_glosses
from megatron_prealign.lexicon.reading import Languages, LineError, Pair, make_pair


def parse_ding(line: str, languages: Languages) -> Iterator[Pair]:
    """Yield the pairs of a line: every synonym of a form with every synonym of the same form on the other side.

    A pair of the j-th and the k-th synonym has the weight 1 / max(j, k). A form without its match on the other side
    is left out.

    Raises:
        LineError: the line has not exactly two sides.
    """
    if line.startswith("#"):
        return
    sides = line.split("::")
    if len(sides) != 2:
        raise LineError(f"{len(sides)} sides, expected two with :: between them")
    target = languages.single_target()
    for left, right in zip(*(side.split("|") for side in sides), strict=False):
        translations = split_glosses(right, ";", target)
        for j, word in enumerate(split_glosses(left, ";", languages.source), start=1):
            for k, translation in enumerate(translations, start=1):
                yield make_pair(word, translation, target, 1.0 / max(j, k))
