"""Losses of words and their groups against values computed by hand, and equal groups for a model that knows nothing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder, open_folder
from megatron_prealign.evaluation.kinds.word_loss import (
    EVALUATION,
    Options,
    WordFinder,
    WordLosses,
    count_words,
    frequency_bands,
    group_losses,
    read_counts,
    word_losses,
)
from megatron_prealign.evaluation.scoring import ScoredDocument, score_documents
from megatron_prealign.text.tokenizer import Tokenizer
from tests.evaluation.folders import PROSE, make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_folder(make_folder(tmp_path_factory.mktemp("hf") / "model"))


def score_by_position(tokenizer: Tokenizer, text: str, num_unscored: int = 0) -> ScoredDocument:
    """Score token number i with 2^i, so that a sum tells which tokens are in it."""
    tokens = tokenizer.encode(text)
    losses = 2.0 ** torch.arange(len(tokens), dtype=torch.float64)
    return ScoredDocument(tokens, losses[num_unscored:])


@pytest.mark.parametrize("num_unscored", [0, 1])
def test_a_word_has_the_losses_of_its_own_tokens(folder: ModelFolder, num_unscored: int) -> None:
    tokenizer = folder.tokenizer
    text = "The statement, straße! x1 the"
    document = score_by_position(tokenizer, text, num_unscored)
    found = word_losses([document], WordFinder(tokenizer, "de"))

    # Built of the pieces by hand: a token belongs to the character it ends on, a space to the word behind it.
    pieces = [tokenizer.token_bytes[token] for token in document.tokens]
    expected = []
    end = 0
    spans = {}
    for word in ("The", "statement", "straße", "x", "the"):
        start = text.index(word, end)
        end = start + len(word)
        spans[word] = (len(text[:start].rstrip(" ").encode()), len(text[:end].encode()))
    position = 0
    losses = dict.fromkeys(spans, 0.0)
    for index, piece in enumerate(pieces):
        last = position + len(piece) - 1
        for word, (first, stop) in spans.items():
            if first <= last < stop:
                losses[word] += 2.0**index
        position += len(piece)
    expected = [(word.casefold(), loss) for word, loss in losses.items()]
    if num_unscored:
        assert expected.pop(0)[0] == "the"
    assert list(zip(found.words, found.losses, strict=True)) == expected
    assert found.num_tokens.sum() == sum(loss.bit_count() for loss in map(int, found.losses))


def test_in_scripts_without_spaces_each_token_is_a_word(folder: ModelFolder) -> None:
    document = score_by_position(folder.tokenizer, "ab cd")
    spaced = word_losses([document], WordFinder(folder.tokenizer, "en"))
    unspaced = word_losses([document], WordFinder(folder.tokenizer, "zh"))
    assert spaced.words == ["ab", "cd"]
    assert "".join(unspaced.words) == "abcd"
    assert len(unspaced.words) == len(document.tokens) > 2


def test_hand_computed_groups() -> None:
    found = WordLosses(["a", "b", "a", "c"], np.array([1.0, 2.0, 3.0, 5.0]), np.array([1, 2, 1, 4]))
    groups = group_losses(found, lambda word: "vowel" if word == "a" else "consonant", ("vowel", "consonant", "digit"))
    assert groups == {
        "vowel": {"words": 2, "tokens": 2, "word_loss": 2.0, "word_perplexity": math.exp(2.0)},
        "consonant": {"words": 2, "tokens": 6, "word_loss": 3.5, "word_perplexity": math.exp(3.5)},
        "digit": {"words": 0, "tokens": 0, "word_loss": None, "word_perplexity": None},
    }


def test_bands_follow_ranks_and_ties_the_alphabet(tmp_path: Path) -> None:
    (tmp_path / "counts.tsv").write_text("the\t7\nThe\t3\nb\t2\na\t2\nrare\t0.5\n")
    bands, names = frequency_bands(read_counts(tmp_path / "counts.tsv"), (1, 2))
    assert names == ["1-1", "2-2", "3-", "uncounted"]
    assert bands == {"the": "1-1", "a": "2-2", "b": "3-", "rare": "3-"}
    (tmp_path / "counts.tsv").write_text("the\n\na b\tx\nc\t-1\n")
    with pytest.raises(DataError) as caught:
        read_counts(tmp_path / "counts.tsv")
    assert [problem.split(": ")[0][-2:] for problem in caught.value.problems] == [":1", ":3", ":4"]


def write_inputs(tmp_path: Path) -> Options:
    texts = [text[:400] for text in PROSE[:6]]
    (tmp_path / "en.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "lexicon.tsv").write_text("The\tder\tde\nis\tist\tde\nof\tvon\tde\n")
    return Options(
        texts={"en": (str(tmp_path / "en.jsonl"),)},
        lexicons=(str(tmp_path / "lexicon.tsv"),),
        frequencies={"en": (str(tmp_path / "en.jsonl"),)},
        band_edges=(5, 50),
    )


def test_groups_of_a_folder_are_sums_over_its_token_losses(folder: ModelFolder, tmp_path: Path) -> None:
    options = write_inputs(tmp_path)
    assert EVALUATION.check(options) == []
    results = EVALUATION.run(folder, options, lambda done, total, part="": None)["en"]
    texts = [json.loads(line)["text"] for line in (tmp_path / "en.jsonl").read_text().splitlines()]
    documents = score_documents(folder, texts)
    listed: list[float] = []
    others: list[float] = []
    finder = WordFinder(folder.tokenizer, "en")
    for document in documents:
        words, starts, stops = finder(document.tokens)
        for word, start, stop in zip(words, starts, stops, strict=True):
            (listed if word in {"the", "is", "of"} else others).append(float(document.losses[start:stop].sum()))
    groups = results["by_lexicon"]
    assert (groups["listed"]["words"], groups["unlisted"]["words"]) == (len(listed), len(others))
    assert groups["listed"]["word_loss"] == pytest.approx(sum(listed) / len(listed))
    assert groups["unlisted"]["word_loss"] == pytest.approx(sum(others) / len(others))
    assert min(len(listed), len(others)) > 20

    bands = results["by_frequency"]
    counts = count_words(folder.tokenizer.encode_batch(texts), finder)
    assert list(bands) == ["1-5", "6-50", "51-", "uncounted"]
    assert bands["1-5"]["words"] == sum(count for _, count in counts.most_common(5))
    assert bands["uncounted"]["words"] == 0
    assert sum(band["words"] for band in bands.values()) == len(listed) + len(others)
    (table,) = EVALUATION.tables("words", {"en": results}) if EVALUATION.tables else ()
    assert table.row_count == 6


def test_a_model_that_knows_nothing_tells_no_group_from_another(tmp_path: Path) -> None:
    folder = open_folder(make_folder(tmp_path / "model"))
    with torch.no_grad():
        folder.model.lm_head.weight.zero_()
    results = EVALUATION.run(folder, write_inputs(tmp_path), lambda done, total, part="": None)["en"]
    groups = [group for grouping in results.values() for group in grouping.values() if group["words"]]
    assert len(groups) == 5
    for group in groups:
        assert group["word_loss"] * group["words"] / group["tokens"] == pytest.approx(math.log(700), rel=1e-6)


def test_what_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    options = write_inputs(tmp_path)
    assert list(EVALUATION.check(Options(texts=options.texts))) == [
        "words have no groups: give lexicons, frequencies or both"
    ]
    (tmp_path / "bad.tsv").write_text("no number\n")
    wrong = Options(
        texts={"en": options.texts["en"], "fr": options.texts["en"], "it": ("gone.txt",)},
        lexicons=options.lexicons,
        frequencies={"en": (str(tmp_path / "bad.tsv"), str(tmp_path / "gone.jsonl"))},
        band_edges=(10, 5),
    )
    problems = list(EVALUATION.check(wrong))
    for expected in (
        "gone.txt: no such input file",
        "the lexicons have no word in fr, it, only in en, de: give other languages a task of their own",
        "frequencies does not name fr: add it, or give fr a task of its own",
        "frequencies does not name it: add it, or give it a task of its own",
        f"{tmp_path / 'bad.tsv'}:1: write a word, a tab and its frequency",
        "band_edges is [10, 5]: write ascending numbers, each once",
    ):
        assert expected in problems, expected
