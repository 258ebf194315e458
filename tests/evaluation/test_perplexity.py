"""Perplexity against a token-by-token computation, and against a model that knows nothing."""

import math
from pathlib import Path

import pytest
import torch

from megatron_prealign.errors import CheckpointError, DataError
from megatron_prealign.evaluation import scoring
from megatron_prealign.evaluation.folder import open_folder
from megatron_prealign.evaluation.kinds.perplexity import Perplexity, measure_perplexity
from megatron_prealign.evaluation.scoring import document_windows, score_documents
from tests.evaluation.folders import PROSE, make_folder


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (4, 2), (5, 5), (7, 3)])
@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 6, 8, 9, 23])
def test_windows_score_each_token_once_with_enough_before_it(length: int, window: int, stride: int) -> None:
    tokens = list(range(length))
    windows = list(document_windows(tokens, window, stride))
    scored = [token for one in windows for token in one.tokens[-one.num_scored :]]
    assert scored == tokens[1:]
    for number, one in enumerate(windows):
        assert 1 <= one.num_scored < len(one.tokens) <= window + 1
        assert list(one.tokens) == tokens[one.tokens[0] : one.tokens[-1] + 1]
        if number:
            assert len(one.tokens) - one.num_scored >= window + 1 - stride


@pytest.mark.parametrize("start", ["end of another document", "begin of document", "nothing"])
def test_equals_a_token_by_token_computation(start: str, tmp_path: Path) -> None:
    given = {"end of another document": [0], "begin of document": [699], "nothing": []}[start]
    path = make_folder(tmp_path / "model", has_eod=bool(given), adds_bos=start == "begin of document")
    folder = open_folder(path)
    texts = ["", PROSE[3][:90], "Straße und 银行", PROSE[9][:30], "a"]
    window, stride = 16, 6
    found = measure_perplexity(folder, texts, window=window, stride=stride)

    total, count = 0.0, 0
    for text in texts:
        tokens = given + folder.tokenizer.encode(text)
        end_of_window = window
        for position in range(1, len(tokens)):
            # The window that scores this token is the first one that reaches it.
            while position > end_of_window:
                end_of_window += stride
            context = tokens[end_of_window - window : position]
            with torch.inference_mode():
                logits = folder.model(torch.tensor([context])).logits[0, -1]
            total -= float(logits.log_softmax(-1)[tokens[position]])
            count += 1
    assert count > 50
    assert found.num_tokens == count
    assert found.total_loss == pytest.approx(total, rel=1e-5)
    # Without a token before it, the first one is not predicted, and its bytes do not count.
    firsts = [] if given else [folder.tokenizer.encode(text)[0] for text in texts[1:]]
    num_given = sum(len(folder.tokenizer.token_bytes[token]) for token in firsts)
    assert found.num_bytes == sum(len(text.encode()) for text in texts) - num_given
    assert found.num_documents == 4
    assert found.to_json()["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert found.to_json()["byte_perplexity"] == pytest.approx(math.exp(total / found.num_bytes), rel=1e-4)
    assert found.to_json()["bits_per_byte"] == pytest.approx(total / found.num_bytes / math.log(2), rel=1e-4)


def test_only_a_part_of_the_logits_of_a_long_document_exists_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(make_folder(tmp_path / "model"))
    texts = [PROSE[3][:400], "a", PROSE[4][:90]]
    whole = score_documents(folder, texts)
    monkeypatch.setattr(scoring, "_MAX_LOGITS", 700 * 5)
    sizes: list[int] = []
    head = folder.model.get_output_embeddings()
    head.register_forward_hook(lambda module, given, logits: sizes.append(logits.numel()))
    chunked = score_documents(folder, texts)
    assert max(sizes) == 700 * 5
    for one, other in zip(whole, chunked, strict=True):
        assert one.tokens == other.tokens
        assert torch.allclose(one.losses, other.losses, rtol=1e-5, atol=1e-6)


def test_a_head_that_scales_its_logits_is_not_taken_for_a_plain_one(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "model", model_type="granite", logits_scaling=4.0)
    folder = open_folder(path)
    (found,) = score_documents(folder, [PROSE[3][:60]])
    tokens = torch.tensor([[0, *found.tokens]])
    with torch.inference_mode():
        expected = folder.model(tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    assert torch.allclose(found.losses.float(), -expected, atol=1e-5)


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity(tmp_path: Path) -> None:
    folder = open_folder(make_folder(tmp_path / "model"))
    with torch.no_grad():
        folder.model.lm_head.weight.zero_()
    steps: list[tuple[int, int]] = []
    found = measure_perplexity(folder, PROSE[:3], progress=lambda done, total: steps.append((done, total)))
    assert found.to_json()["perplexity"] == pytest.approx(700, rel=1e-5)
    assert steps[-1][0] == steps[-1][1] > 3


def test_the_window_is_what_the_model_was_trained_on(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "model")
    assert open_folder(path).window == 64
    config = path / "config.json"
    config.write_text(config.read_text().replace('"vocab_size"', '"training_seq_length": 48, "vocab_size"'))
    assert open_folder(path).window == 48


def test_numbers_that_json_cannot_hold_are_null() -> None:
    content = Perplexity(total_loss=2000.0, num_tokens=2, num_bytes=10, num_documents=1).to_json()
    assert content["perplexity"] is None
    assert content["byte_perplexity"] == pytest.approx(math.exp(200))
    assert Perplexity(total_loss=math.nan, num_tokens=2, num_bytes=10, num_documents=1).to_json()["loss"] is None


def test_text_without_tokens_and_folders_without_model_are_refused(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "model")
    folder = open_folder(path)
    with pytest.raises(DataError, match="no document has a token"):
        measure_perplexity(folder, ["", "  \n"])
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not a Hugging Face folder"):
        open_folder(tmp_path)
    (path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        open_folder(path)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "model")
    tokenizer = path / "tokenizer.json"
    tokenizer.write_text(
        tokenizer.read_text()
        .replace('"merges"', '"merges"', 1)
        .replace(": 699", ": 5000", 1)
        .replace(":699", ":5000", 1)
    )
    with pytest.raises(CheckpointError, match="5001 ids, but the model's vocabulary has 700"):
        open_folder(path)
