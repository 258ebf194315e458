r"""What limits the retrieval of held-out words: P@1 of groups of them, and chance.

Groups of the held-out English words, for each language:

* known tokens: all tokens of the word and of its translations occur in trained words;
* translation trained: one of its translations is also a translation of a trained word;
* relative trained: a trained English word begins with the same five letters, or the word is such a word's beginning;
* neither: no translation and no relative is trained.

    python examples/real_lexicons/analysis.py --model NAME=FOLDER --lexicon lexicon.tsv --held-out held_out.tsv \
        --output analysis.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from megatron_prealign.command_line import tool
from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder, open_folder
from megatron_prealign.evaluation.retrieval import retrieval_scores, select_pairs, token_ids_of
from megatron_prealign.evaluation.vectors import sequence_vectors
from megatron_prealign.files import atomic_text_file, output_problems
from megatron_prealign.lexicon import Lexicon, read_lexicon

STEM_LETTERS = 5
MIN_STEM_LETTERS = 3


def has_relative(word: str, trained: set[str]) -> bool:
    """Return whether a trained word is likely to share the word's stem."""
    folded = word.casefold()
    return any(
        other[:STEM_LETTERS] == folded[:STEM_LETTERS]
        if min(len(other), len(folded)) >= STEM_LETTERS
        else len(other) >= MIN_STEM_LETTERS and (folded.startswith(other) or other.startswith(folded))
        for other in trained
        if other[:MIN_STEM_LETTERS] == folded[:MIN_STEM_LETTERS]
    )


def parts_of(held_out: Lexicon, trained: Lexicon, language: str) -> tuple[list[str], dict[str, list[bool]]]:
    """Return the held-out words that have a translation into a language, sorted, and the groups of each."""
    links = [(word, t.word) for word, t in held_out.pairs() if t.language == language]
    words = sorted({word for word, _ in links})
    targets = {t.word for _, t in trained.pairs() if t.language == language}
    sources = {entry.word.casefold() for entry in trained.entries}
    with_target = {word for word, translation in links if translation in targets}
    translation = [word in with_target for word in words]
    relative = [has_relative(word, sources) for word in words]
    neither = [not (first or second) for first, second in zip(translation, relative, strict=True)]
    return words, {"translation trained": translation, "relative trained": relative, "neither": neither}


def measure(folder: ModelFolder, trained: Lexicon, held_out: Lexicon, language: str) -> dict[str, Any]:
    """Return the number of words and P@1, mean over taps, of all held-out words of a language and of each part.

    Raises:
        DataError: the tokenizer can't write a word.
    """
    words, parts = parts_of(held_out, trained, language)
    pairs = select_pairs(held_out, language, folder.tokenizer, sum(1 for _ in held_out.pairs()), seed=0)
    if len(pairs.sources) != len(words):
        raise DataError(f"the tokenizer can't write {pairs.num_dropped} held-out pairs en-{language}")
    vectors = sequence_vectors(folder, [*pairs.sources, *pairs.targets])
    num_sources = len(pairs.sources)
    hits = torch.stack(
        [retrieval_scores(tap[:num_sources], tap[num_sources:], pairs.links).hits for tap in vectors]
    ).double()
    known = pairs.known(token_ids_of(trained, folder.tokenizer))
    masks = {"all": torch.ones(num_sources, dtype=torch.bool), "known tokens": known, "new tokens": ~known}
    masks |= {name: torch.tensor(part) for name, part in parts.items()}
    translations = torch.bincount(pairs.links[:, 0], minlength=num_sources).double()
    return {
        "target_words": len(pairs.targets),
        "chance": float((translations / len(pairs.targets)).mean()),
        "source_tokens": mean(map(len, pairs.sources)),
        "parts": {
            name: {"words": int(mask.sum()), "p_at_1": float(hits[:, mask].mean()) if mask.any() else None}
            for name, mask in masks.items()
        },
    }


def show(results: dict[str, dict[str, Any]], languages: Sequence[str]) -> None:
    """Print a table for each language."""
    for language in languages:
        first = next(iter(results.values()))[language]
        table = Table("held-out words", "number", *results, title=f"P@1 en-{language}, mean over taps")
        for part, content in first["parts"].items():
            values = (found[language]["parts"][part]["p_at_1"] for found in results.values())
            table.add_row(part, str(content["words"]), *("-" if value is None else f"{value:.3f}" for value in values))
        table.add_row("chance", "", *(f"{found[language]['chance']:.4f}" for found in results.values()))
        Console().print(table)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER", help="Hugging Face folder")
    parser.add_argument("--lexicon", type=Path, required=True, help="trained pairs")
    parser.add_argument("--held-out", type=Path, required=True, help="held-out pairs")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args(argv)
    if problems := output_problems(arguments.output, overwrite=False):
        raise DataError(problems)
    trained, held_out = (read_lexicon([path], "en") for path in (arguments.lexicon, arguments.held_out))
    results = {}
    for name, _, path in (text.partition("=") for text in arguments.model):
        folder = open_folder(Path(path))
        results[name] = {language: measure(folder, trained, held_out, language) for language in held_out.languages}
    with atomic_text_file(arguments.output) as stream:
        json.dump(results, stream, indent=2)
    show(results, held_out.languages)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
