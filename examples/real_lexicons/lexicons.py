"""Make one lexicon of FreeDict English-German and CC-CEDICT: frequent English words, their likeliest translations.

What is dropped, in this order: pairs that the filters of clean_lexicon.py drop, entries of several words, all but the
heaviest translations (the dictionary's weight times the word's frequency), all but the most frequent English words.
A share of the English words, the same for both languages, is held out.

    python examples/real_lexicons/lexicons.py --sources runs/real_lexicons/sources --output runs/real_lexicons/lexicon
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_prealign.errors import PrealignError
from megatron_prealign.lexicon import Lexicon, filter_lexicon, read_lexicon
from megatron_prealign.lexicon.frequency import rank_translations
from megatron_prealign.lexicon.output import atomic_folder

DICTIONARIES = {"de": "freedict-eng-deu.index", "zh": "cedict_1_0_ts_utf-8_mdbg.txt.gz"}


def read_dictionary(path: Path, language: str, max_translations: int) -> tuple[Lexicon, dict[str, int]]:
    """Read, filter and rank one dictionary; return it and how many word pairs were read, dropped and kept."""
    lexicon = read_lexicon([path], "en", language)
    single, dropped = filter_lexicon(lexicon, multi_word=True)
    ranked, _ = rank_translations(single)
    kept, cut = filter_lexicon(ranked, max_translations=max_translations)
    counts = {f"dropped by {name.replace('_', '-')}": count for name, count in (cut | dropped).items()}
    return kept, {"read": lexicon.num_pairs, **counts, "kept": kept.num_pairs}


def most_frequent(lexicon: Lexicon, num_words: int) -> Lexicon:
    """Keep the entries of the English words that are most frequent in running text."""
    import wordfreq  # its absence is told by the ranking before

    ordered = sorted(lexicon.entries, key=lambda entry: (-wordfreq.word_frequency(entry.word, "en"), entry.word))
    return Lexicon(lexicon.source_language, tuple(ordered[:num_words]))


def describe(trained: Lexicon, held_out: Lexicon, language: str) -> dict[str, Any]:
    """Return what the retrieval of a language's held-out words depends on."""
    seen = {translation.word for _, translation in trained.pairs() if translation.language == language}
    pairs = [(word, translation) for word, translation in held_out.pairs() if translation.language == language]
    return {
        "trained_pairs": sum(translation.language == language for _, translation in trained.pairs()),
        "held_out_pairs": len(pairs),
        "held_out_pairs_whose_translation_is_trained": sum(translation.word in seen for _, translation in pairs),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="folder that sources.py made")
    parser.add_argument("--output", type=Path, required=True, help="folder of lexicon.tsv, held_out.tsv, counts.json")
    parser.add_argument("--num-words", type=int, default=5000, help="English words")
    parser.add_argument("--max-translations", type=int, default=2, help="of a word in each language")
    parser.add_argument("--held-out-ratio", type=float, default=0.1, help="share of the English words, (0, 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of words that are held out")
    arguments = parser.parse_args(argv)
    try:
        pairs, counts = [], {}
        for language, name in DICTIONARIES.items():
            lexicon, counts[language] = read_dictionary(arguments.sources / name, language, arguments.max_translations)
            pairs += list(lexicon.pairs())
        chosen = most_frequent(Lexicon.from_pairs("en", pairs), arguments.num_words)
        trained, held_out = chosen.split(arguments.held_out_ratio, arguments.seed)
        for language in DICTIONARIES:
            counts[language] |= describe(trained, held_out, language)
        counts["words"] = {"trained": len(trained), "held_out": len(held_out)}
        with atomic_folder(arguments.output) as folder:
            trained.write_tsv(folder / "lexicon.tsv")
            held_out.write_tsv(folder / "held_out.tsv")
            (folder / "counts.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    except (PrealignError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(counts, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
