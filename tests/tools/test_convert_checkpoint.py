"""tools/convert_checkpoint.py to-hf: checkpoints of any layout give the same bytes, checked on logits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_prealign.checkpoint.sharded import load_full_model, save_checkpoint
from megatron_prealign.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainingConfig
from megatron_prealign.model import build_model_chunks
from megatron_prealign.platform import (
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
    shut_down_distributed,
)
from megatron_prealign.testing import run_distributed
from tests.evaluation.folders import make_folder
from tools.convert_checkpoint import main

LLAMA = ModelConfig(
    num_layers=4,
    hidden_size=32,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=48,
    max_position_embeddings=64,
    vocab_size=700,
    init_method_std=0.2,
)
MODELS = {
    "tied": LLAMA,
    "untied": replace(LLAMA, untie_embeddings_and_output_weights=True),
    "gpt_neox": replace(LLAMA, architecture="gpt_neox", num_query_groups=None),
}


@pytest.fixture
def one_process() -> Iterator[None]:
    """Leave no process group behind: each conversion makes this process a group of one."""
    yield
    shut_down_distributed()


def save_at_layout(run_path: str, tokenizer_path: str, parallel: ParallelConfig) -> None:
    """Save the initial weights of each model; equal at every layout, as they are addressed by name."""
    platform = select_platform("cpu")
    initialize_distributed(platform)
    initialize_model_parallel(parallel, seed=1)
    for step, model in enumerate(MODELS.values(), start=1):
        training = TrainingConfig(run_path=f"{run_path}/{step}", device="cpu")
        config = Config(model=model, data=DataConfig(seq_length=32), parallel=parallel, training=training)
        chunks = build_model_chunks(config, platform.device)
        save_checkpoint(config, chunks, None, {"step": step}, Path(tokenizer_path))
    shut_down_distributed()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of every model at one rank and at TP2 PP2."""
    root = tmp_path_factory.mktemp("runs")
    tokenizer = make_folder(root / "tokenizer") / "tokenizer.json"
    layouts = {"single": ParallelConfig()}
    layouts["tp2-pp2"] = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    for name, parallel in layouts.items():
        world_size = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
        run_distributed(save_at_layout, world_size, str(root / name), str(tokenizer), parallel)
    return {name: root / name for name in layouts}


@pytest.mark.parametrize("model", MODELS)
def test_any_layout_gives_the_same_folder_and_its_logits(
    model: str, runs: dict[str, Path], tmp_path: Path, one_process: None
) -> None:
    number = str(list(MODELS).index(model) + 1)
    for name, root in runs.items():
        assert main(["to-hf", "--checkpoint", str(root / number), "--output", str(tmp_path / name)]) == 0
        shut_down_distributed()
    files = {path.name: path.read_bytes() for path in (tmp_path / "single").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert {path.name: path.read_bytes() for path in (tmp_path / "tp2-pp2").iterdir()} == files

    megatron, _ = load_full_model(runs["tp2-pp2"] / number)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tp2-pp2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tp2-pp2")
    ids = torch.tensor([tokenizer("The if statement is used for conditional execution")["input_ids"]])
    with torch.inference_mode():
        expected = megatron(ids, torch.arange(ids.shape[1])[None], None)[..., :700]
        assert float((loaded(ids).logits - expected).abs().max()) < 1e-4
    assert loaded.generate(ids, max_new_tokens=3, do_sample=False).shape[1] <= ids.shape[1] + 3


def test_missing_checkpoints_and_existing_outputs_are_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["to-hf", "--checkpoint", str(tmp_path / "nowhere"), "--output", str(output)]) == 2
    assert "error: " in (shown := capsys.readouterr().err)
    assert "nowhere: no checkpoint here" in shown
    assert not output.exists()
    output.mkdir()
    assert main(["to-hf", "--checkpoint", str(runs["single"] / "1"), "--output", str(output)]) == 2
    assert "out exists: name another folder, or pass --overwrite" in capsys.readouterr().err


def test_an_output_that_holds_the_checkpoint_is_refused(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["single"]
    before = sorted(run.rglob("*"))
    for output in (run, run / "1"):
        assert main(["to-hf", "--checkpoint", str(run / "1"), "--output", str(output), "--overwrite"]) == 2
        assert "replacing it would delete" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("size", ["0", "-5", "big", "5 apples"])
def test_a_size_that_is_none_is_refused(
    size: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["to-hf", "--checkpoint", str(runs["single"] / "1"), "--output", str(tmp_path / "out")]
    assert main([*given, f"--max-shard-size={size}"]) == 2
    assert f"--max-shard-size {size}: expected bytes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_size_in_bytes_needs_no_unit(runs: dict[str, Path], tmp_path: Path) -> None:
    given = ["to-hf", "--checkpoint", str(runs["single"] / "1"), "--output", str(tmp_path / "out"), "--no-verify"]
    assert main([*given, "--max-shard-size", "1000"]) == 0
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
