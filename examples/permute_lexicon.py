"""Deal the translations of a lexicon to other words: a control with the same words, and no meaning.

    python examples/permute_lexicon.py --lexicon runs/lexicon/lexicon.tsv --output runs/lexicon/permuted.tsv

Within a language the translations of a word go to another one together, with their weights. `--ratio` permutes a share
of the words and leaves the others as they are.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import ConfigError
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.lexicon.lexicon import LexiconEntry, Translation


def permuted(lexicon: Lexicon, ratio: float, seed: int) -> Lexicon:
    """Deal the translations of a language anew among words that have some in it.

    Args:
        lexicon: of any languages.
        ratio: share of the words that take part, in [0, 1]; each is drawn by a hash, as held-out words are.
        seed: of the draws.
    """
    _, chosen = lexicon.split(ratio, seed)
    words = {entry.word for entry in chosen.entries}
    owners: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(lexicon.entries):
        for language in {t.language for t in entry.translations} if entry.word in words else ():
            owners[language].append(index)
    source_of: dict[tuple[int, str], int] = {}
    for language, indices in sorted(owners.items()):
        dealt = indices.copy()
        random.Random(f"{seed} {language}").shuffle(dealt)
        source_of |= {(index, language): source for index, source in zip(indices, dealt, strict=True)}

    def translations(index: int) -> tuple[Translation, ...]:
        languages = dict.fromkeys(t.language for t in lexicon.entries[index].translations)
        sources = [(name, lexicon.entries[source_of.get((index, name), index)]) for name in languages]
        return tuple(t for name, entry in sources for t in entry.translations if t.language == name)

    entries = (LexiconEntry(entry.word, translations(index)) for index, entry in enumerate(lexicon.entries))
    return Lexicon(lexicon.source_language, tuple(entries))


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--lexicon", type=path_argument, required=True, help="TSV file of word pairs")
    parser.add_argument("--output", type=path_argument, required=True, help="TSV file to write")
    parser.add_argument("--source-language", default="en", help="language of the source words")
    parser.add_argument("--ratio", type=float, default=1.0, help="share of the words, [0, 1]")
    parser.add_argument("--seed", type=int, default=1, help="of the permutation")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.ratio <= 1:
        raise ConfigError(f"--ratio is {arguments.ratio}; give a number in [0, 1]")
    lexicon = read_lexicon([arguments.lexicon], arguments.source_language)
    permuted(lexicon, arguments.ratio, arguments.seed).write_tsv(arguments.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
