"""tools/convert_checkpoint.py from-hf: folders that runs start from, and folders that are refused with the reason."""

import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_prealign.config import load_resolved
from megatron_prealign.platform import shut_down_distributed
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import run_all_steps
from tests.evaluation.folders import make_folder
from tests.workspace import MakeValues
from tools.convert_checkpoint import main

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    """Leave no process group behind: each self-check makes this process a group of one."""
    yield
    shut_down_distributed()


def import_folder(source: Path, output: Path, *options: str) -> int:
    return main(["from-hf", "--model", str(source), "--output", str(output), *options])


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
STARTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"rope_parameters": YARN},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0], "pad_token_id": None},
}
"""Folders to start from, by model type: settings."""


def test_both_stages_start_from_an_imported_folder_at_any_layout(
    workspace: Path, make_values: MakeValues, tmp_path: Path
) -> None:
    imports = {}
    for model_type, given in STARTS.items():
        source, imports[model_type] = tmp_path / model_type, tmp_path / f"imported-{model_type}"
        shape = {"num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 300}
        make_folder(source, model_type=model_type, **shape, **given)
        for file in (workspace / "tok").iterdir():
            shutil.copy(file, source)
        assert import_folder(source, imports[model_type]) == 0

    def runs(name: str, parallel: dict[str, int], is_fresh: bool = False) -> list[Any]:
        found = []
        for model_type, imported in imports.items():
            model = dataclasses.asdict(load_resolved(imported / "config.yaml").model)
            for stage in ("align_init", "pretrain"):
                path = tmp_path / name / model_type / stage
                checkpoint = {} if is_fresh else {"init_from": str(imported)}
                found.append(make_values(stage, path, model=model, parallel=parallel, checkpoint=checkpoint))
        return found

    layout = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}
    both = [*runs("single", {}), *runs("fresh", {}, is_fresh=True)]
    alone = run_distributed(run_all_steps, 1, both, 1)[0]
    spread = run_distributed(run_all_steps, 4, runs("spread", layout), 1)[0]
    num_runs = 2 * len(STARTS)
    for there, here, fresh in zip(spread, alone[:num_runs], alone[num_runs:], strict=False):
        expected = {name: pytest.approx(value, rel=1e-5) for name, value in here["steps"][0].items()}
        assert there["steps"][0] == expected
        assert fresh["steps"][0]["lm_loss"] != pytest.approx(here["steps"][0]["lm_loss"], rel=1e-3)


Edit = Callable[[Path], Any]


def settings(**values: Any) -> Edit:
    """Return an edit of config.json."""

    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def pipe(folder: Path) -> None:
    """Make config.json something that whoever opens it would wait for."""
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Edit:
    """Return an edit of the weights."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return edit


def lose_a_shard(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    files = [f"model-0000{1 + ('norm' in name)}-of-00002.safetensors" for name in tensors]
    (folder / INDEX).write_text(json.dumps({"weight_map": dict(zip(tensors, files, strict=True))}))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(_Bomb(folder / "exploded"), file)


class _Bomb:
    """What a pickle can do when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])


def another_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["one too many"] = 700
    (folder / "tokenizer.json").write_text(json.dumps(content))


LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}

REFUSED: dict[str, tuple[Edit, str]] = {
    "architecture": (settings(model_type="mamba"), "model_type 'mamba' is not a supported architecture"),
    "rope scaling": (settings(rope_parameters=LINEAR), "rope scaling of type 'linear'"),
    "old rope scaling": (settings(rope_parameters=None, rope_scaling=LINEAR), "rope scaling of type 'linear'"),
    "no rope base": (settings(rope_parameters=None, rope_theta=None), "rope_theta is None: give the base"),
    "attention bias": (settings(attention_bias=True), "attention_bias true: llama has no biases here"),
    "mlp bias": (settings(mlp_bias=True), "mlp_bias true"),
    "activation": (settings(hidden_act="gelu"), "hidden_act 'gelu': the MLP here is SwiGLU"),
    "quantised": (settings(quantization_config={"quant_method": "fp8"}), "quantised weights can't be trained on"),
    "sliding window": (
        settings(model_type="qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
        "sliding-window attention (sliding_attention)",
    ),
    "parallel residual": (settings(model_type="gpt_neox"), "use_parallel_residual true (the default)"),
    "erf": (settings(model_type="gpt_neox", use_parallel_residual=False, hidden_act="gelu"), "GELU here is the tanh"),
    "groups": (settings(num_key_value_heads=3), "num_query_groups 3"),
    "pipe": (pipe, "config.json: not a regular file"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: can't be read"),
    "type of architecture": (settings(model_type=["llama"]), "model_type ['llama'] is not a supported architecture"),
    "deep config": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json: not JSON"),
    "lines of reasons": (settings(hidden_size="32"), "'hidden_size': TypeError: Field"),
    "a billion layers": (settings(num_hidden_layers=10**9), "1,000,000,000 layers, but the folder has"),
    "NaN": (weights(lambda found: found["model.norm.weight"].fill_(torch.nan)), "final_layernorm.weight: holds NaN"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "config.json: not JSON"),
    "missing shard": (lose_a_shard, "model-00002-of-00002.safetensors: this weight file is missing"),
    "truncated": (truncate, "model.safetensors: not a complete safetensors file"),
    "pickle": (pickled, "the weights are pickles (pytorch_model.bin)"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no model.safetensors and no model.safetensors.index"),
    "missing weight": (weights(lambda found: found.pop("model.norm.weight")), "weight model.norm.weight is missing"),
    "unknown weight": (
        weights(lambda found: found.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})),
        "q_proj.bias is unknown to this architecture",
    ),
    "integers": (
        weights(lambda found: found.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)})),
        "model.norm.weight is stored as I8",
    ),
    "untied": (settings(tie_word_embeddings=True), "lm_head.weight differs from model.embed_tokens.weight"),
    "tokenizer": (another_tokenizer, "701 ids, but the model has 700 embedding rows"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json or tokenizer.model"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("hf") / "llama")


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_cannot_be_continued_are_refused_with_the_reason(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, reason = REFUSED[name]
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    edit(source)
    assert import_folder(source, tmp_path / "out", "--no-verify") == 2
    assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert not (source / "exploded").exists()


def test_a_multiple_without_measure_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for multiple in (0, 10**30):
        assert import_folder(folder, tmp_path / "out", "--make-vocab-size-divisible-by", str(multiple)) == 2
        assert "must be in [1, 1048576]" in capsys.readouterr().err


def test_every_problem_is_listed_at_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    for edit in (settings(attention_bias=True, mlp_bias=True), truncate):
        edit(source)
    (source / "tokenizer.json").unlink()
    (tmp_path / "out").mkdir()
    assert import_folder(source, tmp_path / "out") == 2
    assert "5 problems:" in capsys.readouterr().err


def test_a_tokenizer_of_other_ids_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(content))
    assert import_folder(folder, tmp_path / "out", "--no-verify", "--tokenizer", str(other)) == 2
    assert "2 ids stand for other text than in" in capsys.readouterr().err


def test_a_failed_self_check_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron_prealign.checkpoint.huggingface import importing

    translate = importing.model_section
    monkeypatch.setattr(
        importing, "model_section", lambda *given: dataclasses.replace(translate(*given), rotary_base=20000.0)
    )
    assert import_folder(folder, tmp_path / "out") == 2
    assert "self-check failed: logits" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["models/llama", "models", "models/link"])
def test_an_output_that_holds_the_source_is_refused(
    output: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "models" / "llama"
    shutil.copytree(folder, source)
    (tmp_path / "models" / "link").symlink_to(source)
    assert import_folder(source, tmp_path / output, "--no-verify", "--overwrite") == 2
    assert "replacing it would delete" in capsys.readouterr().err
    assert sorted(path.name for path in source.iterdir()) == sorted(path.name for path in folder.iterdir())


def test_a_link_to_nowhere_is_an_output_that_exists(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").symlink_to("nowhere")
    assert import_folder(folder, tmp_path / "out", "--no-verify") == 2
    assert "out: exists" in capsys.readouterr().err


def test_a_whole_file_comes_before_a_stale_index(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    names = dict.fromkeys(load_file(source / WEIGHTS), "model-00001-of-00002.safetensors")
    (source / INDEX).write_text(json.dumps({"weight_map": names}))
    # The self-check loads the folder with transformers.
    assert import_folder(source, tmp_path / "out") == 0
    assert f"note: {source}: has {WEIGHTS} and {INDEX}; the former is read" in capsys.readouterr().err
