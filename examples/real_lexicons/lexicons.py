r"""Keep the most frequent English words of a lexicon, and hold a share of them out, the same for all languages.

python examples/real_lexicons/lexicons.py --lexicon runs/real_lexicons/dictionaries.tsv \
        --output runs/real_lexicons/lexicon
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wordfreq

from megatron_prealign.command_line import tool
from megatron_prealign.errors import ConfigError
from megatron_prealign.files import atomic_folder
from megatron_prealign.lexicon import Lexicon, read_lexicon


def most_frequent(lexicon: Lexicon, num_words: int) -> Lexicon:
    """Keep the entries of the English words that are most frequent in running text."""
    # wordfreq.word_frequency would guess for compounds it never saw: "in-one" is as frequent as "one" there.
    frequency = wordfreq.get_frequency_dict("en")
    ordered = sorted(lexicon.entries, key=lambda entry: (-frequency.get(entry.word.casefold(), 0.0), entry.word))
    return Lexicon(lexicon.source_language, tuple(ordered[:num_words]))


def describe(trained: Lexicon, held_out: Lexicon, language: str) -> dict[str, Any]:
    """Return what the retrieval of a language's held-out words depends on."""
    trained_pairs = [(word, t.word) for word, t in trained.pairs() if t.language == language]
    seen = {translation for _, translation in trained_pairs}
    held_out_pairs = [(word, t.word) for word, t in held_out.pairs() if t.language == language]
    return {
        "trained_pairs": len(trained_pairs),
        "trained_words": len({word for word, _ in trained_pairs}),
        "trained_translations": len(seen),
        "held_out_pairs": len(held_out_pairs),
        "held_out_pairs_whose_translation_is_trained": sum(word in seen for _, word in held_out_pairs),
    }


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lexicon", type=Path, required=True, help="TSV file that tools/build_lexicon.py made")
    parser.add_argument("--output", type=Path, required=True, help="folder of lexicon.tsv, held_out.tsv, counts.json")
    parser.add_argument("--num-words", type=int, default=5000, help="English words")
    parser.add_argument("--held-out-ratio", type=float, default=0.1, help="share of the English words, (0, 1)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the choice of held-out words")
    arguments = parser.parse_args(argv)
    if arguments.num_words < 2 or not 0 < arguments.held_out_ratio < 1:
        raise ConfigError("--num-words must be at least 2, --held-out-ratio above 0 and below 1")
    lexicon = most_frequent(read_lexicon([arguments.lexicon], "en"), arguments.num_words)
    trained, held_out = lexicon.split(arguments.held_out_ratio, arguments.seed)
    counts: dict[str, Any] = {"words": {"trained": len(trained), "held_out": len(held_out)}}
    counts |= {language: describe(trained, held_out, language) for language in lexicon.languages}
    with atomic_folder(arguments.output) as folder:
        trained.write_tsv(folder / "lexicon.tsv")
        held_out.write_tsv(folder / "held_out.tsv")
        (folder / "counts.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(counts, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
