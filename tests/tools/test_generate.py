"""tools/generate.py: the likeliest continuation, and the end where the model ends."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.evaluation.folders import make_folder
from tools.generate import main

PROMPT = "The if statement is used for"


def test_greedy_continuation_is_that_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "model")
    assert main(["--model", str(folder), "--prompt", PROMPT, "--max-new-tokens", "5"]) == 0
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    expected = model.generate(**tokenizer(PROMPT, return_tensors="pt"), do_sample=False, max_new_tokens=5)
    assert capsys.readouterr().out == f"{tokenizer.decode(expected[0])}\n[cut after 5 tokens]\n"


def test_it_stops_where_the_model_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "model", model_type="gpt_neox")
    weights = load_file(folder / "model.safetensors")
    # The final norm's bias points at the output row of the end-of-document token, whatever the input.
    weights["gpt_neox.final_layer_norm.bias"].fill_(5.0)
    weights["embed_out.weight"][0] = 5.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert main(["--model", str(folder), "--prompt", PROMPT, "--prompt", "A class"]) == 0
    assert capsys.readouterr().out == f"{PROMPT}\n[end]\nA class\n[end]\n"


def test_it_stops_at_every_end_that_the_folder_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "model")
    command = ["--model", str(folder), "--prompt", PROMPT, "--max-new-tokens", "5"]
    assert main(command) == 0
    plain = capsys.readouterr().out.splitlines()[0]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    third = model.generate(**tokenizer(PROMPT, return_tensors="pt"), do_sample=False, max_new_tokens=5)[0, -3].item()
    settings = {"eos_token_id": [0, third], "repetition_penalty": 50.0}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert main(command) == 0
    continued, end = capsys.readouterr().out.splitlines()
    assert end == "[end]"
    assert plain.startswith(continued), "the likeliest tokens, whatever penalty the folder names"


def test_the_space_before_a_continuation_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    # As SentencePiece, which drops the space before the first word of a text.
    content["decoder"] = {
        "type": "Sequence",
        "decoders": [content["decoder"], {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    num_spaced = 0
    for prompt in PROMPT.split():
        expected = model.generate(**tokenizer(prompt, return_tensors="pt"), do_sample=False, max_new_tokens=5)
        assert main(["--model", str(folder), "--prompt", prompt, "--max-new-tokens", "5"]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(tokenizer.decode(expected[0]))
        num_spaced += printed.removeprefix(prompt).startswith(" ")
    assert num_spaced


def test_a_prompt_that_is_not_utf8_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path), "--prompt", "\udcff"]) == 2
    assert "error: --prompt '\\udcff' is not UTF-8" in capsys.readouterr().err


def test_sampling_is_repeatable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "model")
    texts = []
    for seed in ("1", "1", "2"):
        main(["--model", str(folder), "--prompt", PROMPT, "--temperature", "1", "--seed", seed])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_what_is_no_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path), "--prompt", PROMPT]) == 2
    assert "not a Hugging Face folder" in capsys.readouterr().err


def test_what_cannot_be_loaded_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "model")
    path = folder / "model.safetensors"
    whole, weights = path.read_bytes(), load_file(path)

    def refusal(*options: str) -> str:
        assert main(["--model", str(folder), "--prompt", PROMPT, *options]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        return error

    assert "--max-new-tokens must be at least 1" in refusal("--max-new-tokens", "0")
    for temperature in ("-1", "nan", "inf"):
        assert "--temperature must be 0 or a positive number" in refusal("--temperature", temperature)
    path.write_bytes(whole[:-100])
    assert "transformers can't load it" in refusal()
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    assert "weights hold NaN or infinity: model.norm.weight" in refusal()
    path.write_bytes(whole)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"llama"', '["llama"]'))
    assert "transformers can't load it" in refusal()
