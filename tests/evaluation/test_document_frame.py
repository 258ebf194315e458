"""Every evaluation reads a document as the bake writes it: one frame, whatever the tokenizer adds."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_prealign.bake.bake import bake
from megatron_prealign.bake.options import BakeOptions
from megatron_prealign.dataset.indexed import IndexedReader
from megatron_prealign.evaluation.fine_tuning import encode_examples
from megatron_prealign.evaluation.folder import ModelFolder, open_folder
from megatron_prealign.evaluation.kinds import sentence_retrieval
from megatron_prealign.evaluation.labelled import Example
from megatron_prealign.evaluation.scoring import completion_windows, score_documents
from megatron_prealign.evaluation.vectors import sequence_vectors
from tests.evaluation.folders import PROSE, make_folder
from tools.generate import main as generate

TEXTS = [PROSE[2][:80], "Straße und 银行", "a"]
BOS, EOD = 699, 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model whose tokenizer begins documents with a token."""
    return open_folder(make_folder(tmp_path_factory.mktemp("hf") / "model", adds_bos=True))


def test_documents_are_scored_as_they_are_baked(folder: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    options = BakeOptions(
        input_paths=(tmp_path / "text.jsonl",),
        tokenizer_path=folder.path,
        output_prefix=tmp_path / "out",
        append_eod=True,
    )
    assert bake(options).content["bos_id"] == BOS
    baked = IndexedReader(options.dataset_prefix)
    scored = score_documents(folder, TEXTS)
    stops = baked.lengths.cumsum()
    for one, start, stop in zip(scored, stops - baked.lengths, stops, strict=True):
        tokens = baked.tokens[start:stop].tolist()
        assert tokens == [BOS, *one.tokens, EOD] == [*folder.document_start, *one.tokens, EOD]
        with torch.inference_mode():
            expected = folder.model(torch.tensor([tokens[:-2]])).logits[0].log_softmax(-1)
        targets = torch.tensor(tokens[1:-1])
        assert torch.allclose(one.losses.float(), -expected.gather(1, targets[:, None])[:, 0], atol=1e-4)


def test_prompts_examples_and_sentences_begin_as_documents_do(folder: ModelFolder) -> None:
    ids = folder.tokenizer.encode("The value")
    (window,) = completion_windows(folder, "The value", [" of"])
    assert window.tokens[: len(ids) + 1] == [BOS, *ids]
    first, pair = folder.tokenizer.encode("one"), folder.tokenizer.encode("two")
    examples = [Example("one", None, "a", ""), Example("one", "two", "a", "")]
    assert encode_examples(folder.tokenizer, examples, 64) == [[BOS, *first], [BOS, *first, EOD, *pair]]
    vectors, _ = sentence_retrieval._vectors(folder, "en", ["The value"], "mean")
    assert torch.equal(vectors, sequence_vectors(folder, [ids], "mean", [BOS]))


def test_a_prompt_is_continued_as_in_transformers(folder: ModelFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(["--model", str(folder.path), "--prompt", "The if", "--max-new-tokens", "6"]) == 0
    tokenizer, model = AutoTokenizer.from_pretrained(folder.path), AutoModelForCausalLM.from_pretrained(folder.path)
    given = tokenizer("The if", return_tensors="pt")
    assert given["input_ids"][0, 0] == BOS
    expected = model.generate(**given, do_sample=False, max_new_tokens=6)
    continued = tokenizer.decode(expected[0], skip_special_tokens=True)
    assert capsys.readouterr().out == f"{continued}\n[cut after 6 tokens]\n"
