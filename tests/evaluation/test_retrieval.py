"""Retrieval against hand-computed values and loops, at chance for shuffled pairs, perfect for equal words."""

import random
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import open_folder
from megatron_prealign.evaluation.retrieval import (
    csls_p_at_1,
    measure_retrieval,
    retrieval_scores,
    select_pairs,
)
from megatron_prealign.evaluation.vectors import sequence_vectors
from megatron_prealign.lexicon import Lexicon, Translation
from tests.evaluation.folders import make_folder


def make_lexicon(pairs: list[tuple[str, str]], language: str = "de") -> Lexicon:
    return Lexicon.from_pairs("en", [(source, Translation(target, language)) for source, target in pairs])


def test_hand_computed_scores() -> None:
    # Sources along x, y and the diagonal; targets along y, x and -x, of any length.
    sources = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    targets = torch.tensor([[0.0, 5.0], [1.0, 0.0], [-1.0, 0.0]])
    # x finds x, though -x is a translation too; y's only translation is -x: a miss; the diagonal ties x with y: a miss.
    links = torch.tensor([[0, 1], [0, 2], [1, 2], [2, 0]])
    scores = retrieval_scores(sources, targets, links)
    half = 0.5**0.5
    assert scores.p_at_1 == pytest.approx(1 / 3)
    assert scores.mean_cosine == pytest.approx((1 - 1 + 0 + half) / 4)
    assert scores.anisotropy == pytest.approx((0 + 1 + 0 + half - half) / 5)


def test_several_correct_translations_count() -> None:
    sources = torch.tensor([[1.0, 0.0]])
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.1], [0.5, 0.5]])
    assert retrieval_scores(sources, targets, torch.tensor([[0, 0], [0, 1]])).p_at_1 == 1.0
    assert retrieval_scores(sources, targets, torch.tensor([[0, 0], [0, 2]])).p_at_1 == 0.0
    assert retrieval_scores(sources, targets, torch.tensor([[0, 0], [0, 1], [0, 2]])).anisotropy is None


def test_equals_loops_over_words(monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks of rows, so that their borders are covered.
    monkeypatch.setattr("megatron_prealign.evaluation.retrieval._ROWS_AT_ONCE", 7)
    generator = torch.Generator().manual_seed(2)
    targets = torch.randn(30, 6, generator=generator)
    links = {(source, source % 30) for source in range(40)} | {(source, (source * 7) % 30) for source in range(40)}
    sources = torch.stack([targets[source % 30] for source in range(40)])
    sources = sources + 0.8 * torch.randn(40, 6, generator=generator)
    scores = retrieval_scores(sources, targets, torch.tensor(sorted(links)))

    cosines = [[float(cosine_similarity(source, target, dim=0)) for target in targets] for source in sources]
    hits = [(row, max(range(30), key=lambda column: line[column])) in links for row, line in enumerate(cosines)]
    pairs = [cosines[row][column] for row, column in links]
    others = [cosines[row][column] for row in range(40) for column in range(30) if (row, column) not in links]
    assert 0.2 < sum(hits) / 40 < 0.95
    assert scores.p_at_1 == sum(hits) / 40
    assert scores.mean_cosine == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert scores.anisotropy == pytest.approx(sum(others) / len(others), abs=1e-6)


def test_csls_passes_over_a_hub() -> None:
    # The hub is nearest to both sources and far above its own mean; by hand, with the only 2 sources as neighbours:
    # cosines .8 .6 0 / .8 0 .6, less half the density (.8 .3 .3): 0.4 0.45 -.15 / 0.4 -.15 0.45.
    sources = torch.tensor([[0.8, 0.6, 0.0], [0.8, 0.0, 0.6]])
    targets = torch.eye(3)
    links = torch.tensor([[0, 1], [1, 2]])
    assert retrieval_scores(sources, targets, links).p_at_1 == 0.0
    assert csls_p_at_1(sources, targets, links) == 1.0


def test_csls_equals_loops_over_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_prealign.evaluation.retrieval._ROWS_AT_ONCE", 7)
    generator = torch.Generator().manual_seed(5)
    targets = torch.randn(30, 6, generator=generator)
    sources = targets[torch.arange(40) % 30] + 0.8 * torch.randn(40, 6, generator=generator)
    links = torch.stack([torch.arange(40), torch.arange(40) % 30], dim=1)
    cosines = [[float(cosine_similarity(source, target, dim=0)) for target in targets] for source in sources]
    densities = [sum(sorted((line[column] for line in cosines), reverse=True)[:10]) / 10 for column in range(30)]
    hits = 0
    for row, line in enumerate(cosines):
        scores = [2 * cosine - density for cosine, density in zip(line, densities, strict=True)]
        hits += scores.index(max(scores)) == row % 30
    assert 8 < hits < 38
    assert hits != round(40 * retrieval_scores(sources, targets, links).p_at_1)
    assert csls_p_at_1(sources, targets, links) == hits / 40


def test_a_shuffled_lexicon_scores_at_chance() -> None:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(1000, 8, generator=generator)
    shuffled = torch.randperm(1000, generator=generator)
    links = torch.stack([torch.arange(1000), shuffled], dim=1)
    assert retrieval_scores(vectors, vectors, links).p_at_1 < 0.01
    assert csls_p_at_1(vectors, vectors, links) < 0.01
    assert retrieval_scores(vectors, vectors, torch.arange(1000)[:, None].expand(1000, 2)).p_at_1 == 1.0
    # All words alike: every target ties, and no tie is a hit.
    alike = torch.ones(1000, 8) + 1e-9 * vectors
    assert retrieval_scores(alike, alike, links).p_at_1 == 0.0
    assert csls_p_at_1(alike, alike, links) == 0.0


@pytest.mark.parametrize(("model_type", "tied"), [("llama", False), ("llama", True), ("gpt_neox", False)])
def test_word_vectors_are_means_over_own_subwords_at_every_tap(model_type: str, tied: bool, tmp_path: Path) -> None:
    folder = open_folder(make_folder(tmp_path / "model", model_type=model_type, tied=tied))
    draw = random.Random(0)
    words = [[draw.randrange(1, 700) for _ in range(size)] for size in (3, 1, 7, 1, 2, 12)] * 50
    found = sequence_vectors(folder, words)
    names = ["embedding", "layer_1", "layer_2"] + ([] if tied else ["output_embedding"])
    assert folder.taps == names
    assert found.shape == (len(names), 300, 32)

    base = folder.model.base_model
    embedding = folder.model.get_input_embeddings()
    norm = base.norm if model_type == "llama" else base.final_layer_norm
    layers: list[torch.Tensor] = []
    for layer in base.layers:
        layer.register_forward_hook(lambda *call: layers.append(call[2]))
    for index in (0, 1, 2, 5, 299):
        layers.clear()
        with torch.inference_mode():
            ids = torch.tensor([words[index]])
            base(ids)
            expected = [embedding(ids)[0], layers[0][0], norm(layers[1])[0]]
            expected += [] if tied else [folder.model.get_output_embeddings().weight[words[index]]]
        for tap, states in enumerate(expected):
            assert torch.allclose(found[tap, index], states.mean(dim=0), atol=1e-5), (index, names[tap])


def test_words_with_equal_rows_are_found_and_others_are_not(tmp_path: Path) -> None:
    folder = open_folder(make_folder(tmp_path / "model"))
    tokenizer = folder.tokenizer
    words = [text.decode()[1:] for text in tokenizer.token_bytes if text.startswith(b" ") and text[1:].isalpha()]
    words = [word for word in words if word.isascii() and len(tokenizer.encode_word(word, spaced=True)) == 1][:60]
    assert len(words) == 60
    pairs = list(zip(words[:30], words[30:], strict=True))
    with torch.no_grad():
        for source, target in pairs:
            ids = [tokenizer.encode_word(word, spaced=True)[0] for word in (source, target)]
            for embeddings in (folder.model.get_input_embeddings(), folder.model.get_output_embeddings()):
                embeddings.weight[ids[1]] = embeddings.weight[ids[0]]
    scores = measure_retrieval(folder, make_lexicon(pairs))["en-de"]
    assert scores["num_pairs"] == scores["num_source_words"] == scores["num_target_words"] == 30
    assert scores["p_at_1"] == [1.0] * 4
    assert scores["mean_cosine"] == pytest.approx([1.0] * 4, abs=1e-5)
    assert all(value < 0.9 for value in scores["anisotropy"])

    shuffled = make_lexicon([(source, pairs[(index + 1) % 30][1]) for index, (source, _) in enumerate(pairs)])
    assert measure_retrieval(folder, shuffled)["en-de"]["p_at_1"] == [0.0] * 4


def test_words_are_encoded_as_their_language_writes_them(tmp_path: Path) -> None:
    tokenizer = open_folder(make_folder(tmp_path / "model")).tokenizer
    spaced = select_pairs(make_lexicon([("bank", "Bank")], "de"), "de", tokenizer, 10, 0)
    unspaced = select_pairs(make_lexicon([("bank", "银行")], "zh"), "zh", tokenizer, 10, 0)
    assert tokenizer.decode(spaced.sources[0]) == " bank"
    assert tokenizer.decode(spaced.targets[0]) == " Bank"
    assert tokenizer.decode(unspaced.targets[0]) == "银行"


def test_drawn_pairs_do_not_depend_on_order_and_keep_all_their_translations(tmp_path: Path) -> None:
    tokenizer = open_folder(make_folder(tmp_path / "model")).tokenizer
    # Ten sources that share three targets each: drawing pairs leaves links between drawn words that were not drawn.
    pairs = [(f"s{chr(97 + i)}", f"t{chr(97 + (i + j) % 10)}") for i in range(10) for j in range(3)]
    first = select_pairs(make_lexicon(pairs), "de", tokenizer, 12, seed=4)
    second = select_pairs(make_lexicon(pairs[::-1]), "de", tokenizer, 12, seed=4)
    assert (first.sources, first.targets) == (second.sources, second.targets)
    assert torch.equal(first.links, second.links)
    assert select_pairs(make_lexicon(pairs), "de", tokenizer, 12, seed=5).sources != first.sources
    words = {
        (tokenizer.decode(first.sources[row])[1:], tokenizer.decode(first.targets[column])[1:])
        for row, column in first.links.tolist()
    }
    sources, targets = {source for source, _ in words}, {target for _, target in words}
    assert words == {pair for pair in pairs if pair[0] in sources and pair[1] in targets}
    assert len(words) > 12


def test_a_language_without_pairs_is_refused(tmp_path: Path) -> None:
    tokenizer = open_folder(make_folder(tmp_path / "model")).tokenizer
    with pytest.raises(DataError, match="no pair en-fr"):
        select_pairs(make_lexicon([("bank", "Bank")]), "fr", tokenizer, 10, 0)
