"""Exported folders in other runtimes: the ids and greedy tokens of transformers, in fp32 on the CPU."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.checkpoint.languages import lines_of_ten_languages
from tests.compatibility.runtime_folders import MODELS, NUM_NEW_TOKENS, PROMPTS, Exported, make_exported, make_tokenizer
from tests.text.odd_texts import odd_texts

pytestmark = pytest.mark.runtimes
INSTALL = "is not installed (make test-runtimes installs it)"
NODE_LIBRARY = Path(
    os.environ.get("PREALIGN_NODE_MODULES", f"{sys.prefix}/node_modules"), "node-llama-cpp/dist/index.js"
)
LLAMA_CPP = Path(__file__).with_name("llama_cpp.mjs")
# Texts with NUL are left out: the runtimes take C strings.
TEXTS = (*PROMPTS, *lines_of_ten_languages()[::5], *(text for text in odd_texts(400, seed=7) if "\0" not in text))


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=MODELS)
def exported(
    request: pytest.FixtureRequest, tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    return make_exported(request.param, tokenizer_path, tmp_path_factory.mktemp("exported"))


def plain_ids(exported: Exported) -> list[list[int]]:
    """Return what transformers makes of the texts, without the token that begins them."""
    tokenizer = AutoTokenizer.from_pretrained(exported.path)
    return [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in TEXTS]


def check_tokens(found: list[list[int]], exported: Exported) -> None:
    """Compare continuations as far as transformers' is clear."""
    pairs = list(zip(found, exported.continuations, strict=True))
    assert [mine[: len(expected)] for mine, expected in pairs] == exported.continuations


def test_ctranslate2(exported: Exported, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason=f"ctranslate2 {INSTALL}")
    import ctranslate2

    ctranslate2.converters.TransformersConverter(str(exported.path)).convert(str(tmp_path / "converted"))
    generator = ctranslate2.Generator(
        str(tmp_path / "converted"), device="cpu", compute_type="float32", intra_threads=1
    )
    # It has no tokenizer of its own; its vocabulary is a list of tokens by id.
    tokenizer = AutoTokenizer.from_pretrained(exported.path)
    tokens = json.loads((tmp_path / "converted" / "vocabulary.json").read_text(encoding="utf-8"))
    assert tokens == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    prompts = [[tokens[index] for index in ids] for ids in exported.ids]
    results = generator.generate_batch(
        prompts, max_length=NUM_NEW_TOKENS, sampling_topk=1, include_prompt_in_result=False, max_batch_size=1
    )
    check_tokens([result.sequences_ids[0] for result in results], exported)


def run_llama_cpp(exported: Exported, scratch: Path, pre_tokenizer: str) -> dict[str, Any]:
    """Return what llama.cpp makes of the texts and prompts."""
    pytest.importorskip("gguf", reason=f"gguf {INSTALL}")
    if shutil.which("node") is None or not NODE_LIBRARY.is_file():
        pytest.skip(f"node-llama-cpp {INSTALL}")
    from tests.compatibility.gguf_files import write_gguf

    model = scratch / f"{pre_tokenizer}.gguf"
    write_gguf(exported.path, model, pre_tokenizer)
    request = {"library": str(NODE_LIBRARY), "model": str(model), "texts": TEXTS, "prompts": exported.ids}
    request |= {"numNewTokens": NUM_NEW_TOKENS}
    command = ["node", str(LLAMA_CPP)]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_llama_cpp(exported: Exported, tmp_path: Path) -> None:
    found = run_llama_cpp(exported, tmp_path, "qwen35")
    assert found["ids"] == plain_ids(exported)
    assert found["bos"] == exported.bos_id
    check_tokens(found["continuations"], exported)


def test_the_texts_tell_other_splitting_rules_of_llama_cpp_apart(exported: Exported, tmp_path: Path) -> None:
    for other in ("qwen2", "llama-bpe"):
        assert run_llama_cpp(exported, tmp_path, other)["ids"] != plain_ids(exported)


def test_onnxruntime_genai(exported: Exported, tmp_path: Path) -> None:
    for package in ("onnxruntime_genai", "onnx_ir"):
        pytest.importorskip(package, reason=f"{package} {INSTALL}")
    import onnxruntime_genai

    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(exported.path)]
    command += ["-o", str(tmp_path / "onnx"), "-p", "fp32", "-e", "cpu", "-c", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = onnxruntime_genai.Model(str(tmp_path / "onnx"))
    tokenizer = onnxruntime_genai.Tokenizer(model)
    # It never begins a text with the bos token, whatever the folder says.
    assert [tokenizer.encode(text).tolist() for text in TEXTS] == plain_ids(exported)
    found = []
    for ids in exported.ids:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + NUM_NEW_TOKENS, do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        found.append(generator.get_sequence(0)[len(ids) :].tolist())
    check_tokens(found, exported)


def test_lm_eval(exported: Exported) -> None:
    pytest.importorskip("lm_eval", reason=f"lm_eval {INSTALL}")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=str(exported.path), device="cpu", dtype="float32", batch_size=4)
    # At a space, where no token crosses from the context to the continuation.
    pairs = [(prompt[:cut], prompt[cut:]) for prompt in PROMPTS if (cut := prompt.rstrip().rfind(" ")) > 0]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    tokenizer, model = AutoTokenizer.from_pretrained(exported.path), AutoModelForCausalLM.from_pretrained(exported.path)
    for (context, continuation), (found, _) in zip(pairs, harness.loglikelihood(requests, True), strict=True):
        ids = torch.tensor(tokenizer(context + continuation)["input_ids"])
        with torch.inference_mode():
            predicted = model(ids[None]).logits[0].log_softmax(-1)
        scores = predicted[:-1].gather(1, ids[1:, None])[len(tokenizer(context)["input_ids"]) - 1 :]
        assert math.isclose(found, float(scores.sum()), abs_tol=1e-3)
    settings = {"until": [], "max_gen_toks": NUM_NEW_TOKENS, "do_sample": False}
    requests = [Instance("generate_until", {}, (prompt, settings), number) for number, prompt in enumerate(PROMPTS)]
    texts = harness.generate_until(requests, disable_tqdm=True)
    for text, expected in zip(texts, exported.continuations, strict=True):
        assert text.startswith(tokenizer.decode(expected).rstrip("\N{REPLACEMENT CHARACTER}"))
