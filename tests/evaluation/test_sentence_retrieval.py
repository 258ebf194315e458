"""Aligned texts: scores by hand, at chance in random order, perfect for equal vectors; mistakes in files are told."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import open_folder
from megatron_prealign.evaluation.kinds.sentence_retrieval import EVALUATION, Options, aligned_scores, counterparts
from megatron_prealign.evaluation.vectors import sequence_vectors
from megatron_prealign.pairs.sentences import read_aligned
from tests.evaluation.folders import PROSE, make_folder


def silent(done: int, total: int, part: str = "") -> None:
    """Show nothing."""


def test_hand_computed_scores() -> None:
    sources = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    targets = torch.tensor([[3.0, 0.0], [1.0, 0.5], [1.0, 1.0]])
    # Cosines: 1 .894 .707 / 0 .447 .707 / .707 .949 1. Source y prefers the diagonal; target (1, .5) the diagonal too.
    scores = aligned_scores(sources, targets)
    assert scores.p_at_1 == pytest.approx(2 / 3)
    assert scores.p_at_1_back == pytest.approx(2 / 3)
    assert scores.mexa == pytest.approx(2 / 3)
    half, fifth = 0.5**0.5, 0.2**0.5
    assert scores.mean_cosine == pytest.approx((1 + fifth + 1) / 3)
    assert scores.anisotropy == pytest.approx((2 * fifth + half + 0 + half + half + 3 * 0.1**0.5) / 6)


def test_mexa_asks_both_directions() -> None:
    # Each source finds its target; the first target lies nearer to the second source.
    sources = torch.tensor([[1.0, 0.0, 0.6], [0.0, 1.0, 0.0]])
    targets = torch.tensor([[0.5, 0.6, 0.0], [0.0, 1.0, 0.0]])
    scores = aligned_scores(sources, targets)
    assert (scores.p_at_1, scores.p_at_1_back, scores.mexa) == (1.0, 0.5, 0.5)


def test_random_order_scores_at_chance_and_equal_vectors_perfectly() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(500, 16, generator=generator)
    shuffled = aligned_scores(vectors, vectors[torch.randperm(500, generator=generator)])
    # Half a dozen of 500 would be thrice chance.
    assert max(shuffled.p_at_1, shuffled.p_at_1_back, shuffled.csls_p_at_1, shuffled.mexa) < 6 / 500
    assert shuffled.mean_cosine == pytest.approx(0, abs=0.05)
    right = aligned_scores(vectors, 2 * vectors)
    assert (right.p_at_1, right.p_at_1_back, right.csls_p_at_1, right.mexa) == (1.0, 1.0, 1.0, 1.0)
    alike = aligned_scores(torch.ones(20, 4), torch.ones(20, 4))
    assert (alike.p_at_1, alike.csls_p_at_1, alike.mexa) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("pooling", ["mean", "weighted"])
def test_vectors_are_means_over_own_tokens_behind_the_prefix(pooling: str, tmp_path: Path) -> None:
    folder = open_folder(make_folder(tmp_path / "model"))
    sequences = [[5, 6, 7], [8], [9, 300, 11, 12, 13, 14]]
    found = sequence_vectors(folder, sequences, pooling, prefix=[0])  # type: ignore[arg-type]
    for index, sequence in enumerate(sequences):
        with torch.inference_mode():
            output = folder.model(torch.tensor([[0, *sequence]]), output_hidden_states=True)
        states = output.hidden_states[1][0, 1:]
        weights = torch.arange(1.0, len(sequence) + 1) if pooling == "weighted" else torch.ones(len(sequence))
        expected = (states * weights[:, None]).sum(dim=0) / weights.sum()
        assert torch.allclose(found[1, index], expected, atol=1e-5)


def test_translations_that_say_the_same_are_found_and_others_are_not(tmp_path: Path) -> None:
    folder = open_folder(make_folder(tmp_path / "model"))
    texts = [" ".join(text.split())[:300] for text in PROSE[:30]]
    lines = ["en\tde\tfr\tit", *(f"{text}\t{text}\t{other}\t" for text, other in zip(texts, texts[::-1], strict=True))]
    (tmp_path / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = Options(texts=(str(tmp_path / "texts.tsv"),), languages=("de", "fr"))
    assert EVALUATION.check(options) == []
    results = EVALUATION.run(folder, options, silent)
    assert results["taps"] == ["embedding", "layer_1", "layer_2", "output_embedding"]
    assert list(results["pairs"]) == ["en-de", "en-fr"]
    same, reverse = results["pairs"].values()
    assert (same["num_texts"], same["mexa"], same["mexa_mean"], same["mexa_max"]) == (30, [1.0] * 4, 1.0, 1.0)
    assert same["mean_cosine"] == pytest.approx([1.0] * 4, abs=1e-5)
    assert reverse["p_at_1"] == reverse["csls_p_at_1"] == [0.0] * 4
    ids = [folder.tokenizer.encode(text) for text in texts]
    assert same["num_cut"] == 2 * sum(len(one) > 63 for one in ids) > 0
    (table,) = EVALUATION.tables("articles", results) if EVALUATION.tables else ()
    assert table.row_count == 2

    # Mean cosine of two different texts at one tap, by a loop.
    vectors = normalize(sequence_vectors(folder, [one[:63] for one in ids], "weighted", prefix=[0])[2], dim=-1)
    others = [float(vectors[i] @ vectors[j]) for i in range(30) for j in range(30) if i != j]
    assert same["anisotropy"][2] == pytest.approx(sum(others) / len(others), abs=1e-5)


def test_tables_and_objects_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("EN\tzh_Hans\nbank\t银行\nhouse\t \n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"en": "bank", "zh-hans": "银行"}\n{"en": "house", "zh-hans": null, "n": 3}\n')
    expected = [{"en": "bank", "zh-hans": "银行"}, {"en": "house"}]
    assert read_aligned([str(tmp_path / "a.tsv")]) == read_aligned([str(tmp_path / "b.jsonl")]) == expected


def test_what_is_wrong_with_files_and_languages_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("en\tde\na\tb\tc\n")
    (tmp_path / "b.jsonl").write_text("[1]\n{\n")
    with pytest.raises(DataError) as caught:
        read_aligned([str(tmp_path / name) for name in ("a.tsv", "b.jsonl", "gone.tsv")])
    shown = "\n".join(caught.value.problems)
    for expected in (
        "a.tsv:2: 3 cells for 2 languages",
        "a.tsv: contains no text",
        "b.jsonl:1: expected an object of texts by language",
        "b.jsonl:2: not JSON",
        "gone.tsv: can't be read",
    ):
        assert expected in shown
    rows = [{"en": "a", "de": "b"}, {"en": "c", "de": "d", "fr": "e"}]
    with pytest.raises(
        DataError, match="fr, it: fewer than 2 texts with a counterpart in en; the files have en, de, fr"
    ):
        counterparts(rows, "en", ("de", "fr", "it"))
    with pytest.raises(
        DataError, match="de, en, fr: fewer than 2 texts with a counterpart in xx; the files have en, de, fr"
    ):
        counterparts(rows, "xx", ("de", "en", "fr"))
    with pytest.raises(DataError, match="the files contain no language other than en"):
        counterparts([{"en": "a"}], "en", ())
