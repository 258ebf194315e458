"""Checkpoint to folder to checkpoint, bit for bit: every architecture, from every layout.

Weights are drawn by their global names, biases and norms too, so all layouts hold the same model.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core import parallel_state
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_prealign.checkpoint.folder import newest_checkpoint
from megatron_prealign.checkpoint.huggingface import export_checkpoint, import_folder
from megatron_prealign.checkpoint.huggingface.logits import logits_function
from megatron_prealign.checkpoint.huggingface.mapping import megatron_shapes
from megatron_prealign.checkpoint.sharded import load_full_model, save_checkpoint
from megatron_prealign.checkpoint.tensors import CheckpointTensors
from megatron_prealign.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainingConfig, load_resolved
from megatron_prealign.model import PrealignGPTModel, build_model_chunks
from megatron_prealign.model.parameters import named_global_parameters, shard
from megatron_prealign.platform import (
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
    shut_down_distributed,
)
from megatron_prealign.testing import run_distributed
from tests.evaluation.folders import make_folder

BASE = ModelConfig(
    num_layers=4,
    hidden_size=32,
    num_attention_heads=4,
    ffn_hidden_size=48,
    max_position_embeddings=256,
    make_vocab_size_divisible_by=64,
)
ARCHITECTURES = {
    "llama": replace(BASE, architecture="llama"),
    "qwen2": replace(BASE, architecture="qwen2"),
    "qwen3": replace(BASE, architecture="qwen3", kv_channels=12),
    "gpt_neox": replace(BASE, architecture="gpt_neox", rotary_percent=0.5),
}
HEADS = {"multi-head": None, "grouped-query": 2, "multi-query": 1}
VOCABULARIES = {"padded": 701, "whole": 704}
VARIANTS = {
    f"{name}-{heads}-{'untied' if untied else 'tied'}-{rows}": replace(
        base, num_query_groups=HEADS[heads], untie_embeddings_and_output_weights=untied, vocab_size=VOCABULARIES[rows]
    )
    for name, base in ARCHITECTURES.items()
    for heads in (HEADS if base.traits.shares_keys else ("multi-head",))
    for untied in (False, True)
    for rows in VOCABULARIES
}
TP2, PP2 = {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}
# On four ranks: what tensor and pipeline parallelism leave is data parallelism.
LAYOUTS = {
    "dp4": ParallelConfig(),
    "tp2": ParallelConfig(**TP2),
    "pp2": ParallelConfig(**PP2),
    "tp2-pp2": ParallelConfig(**TP2, **PP2),
    "pp2-interleaved": ParallelConfig(**PP2, virtual_pipeline_model_parallel_size=2),
}


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """Draw a weight so that the model has a clear favourite everywhere: a token, or the one before it where untied.

    Two tokens of a model of small random weights often lie closer together than bfloat16 can tell.
    """
    if name == "output_layer.weight":
        return draw("embedding.word_embeddings.weight", shape).roll(1, 0)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if name.endswith("norm.weight"):
        return 1 + 0.2 * weight
    return (0.5 if name.startswith("embedding.") else 0.05) * weight


def save_all(root: str, tokenizer_path: str) -> None:
    """Save every variant at every layout: <root>/<layout>/<variant>."""
    platform = select_platform("cpu")
    initialize_distributed(platform)
    for layout, parallel in LAYOUTS.items():
        initialize_model_parallel(parallel, seed=1)
        for name, model in VARIANTS.items():
            training = TrainingConfig(run_path=f"{root}/{layout}/{name}", device="cpu")
            config = Config(model=model, data=DataConfig(seq_length=32), parallel=parallel, training=training)
            save(config, platform.device, tokenizer_path)
        parallel_state.destroy_model_parallel()


def save(config: Config, device: torch.device, tokenizer_path: str) -> None:
    chunks = build_model_chunks(config, device)
    shapes = megatron_shapes(config.model)
    for chunk in chunks:
        assert isinstance(chunk, PrealignGPTModel)
        with torch.no_grad():
            for weight_name, parameter in named_global_parameters(chunk):
                parameter.copy_(shard(draw(weight_name, shapes[weight_name]), weight_name, parameter, chunk))
    save_checkpoint(config, chunks, None, {"step": 1}, Path(tokenizer_path))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of every variant at every layout: <layout>/<variant>."""
    root = tmp_path_factory.mktemp("runs")
    tokenizer = make_folder(root / "tokenizer", model_type="qwen2") / "tokenizer.json"
    run_distributed(save_all, 4, str(root), str(tokenizer))
    return root


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    yield
    shut_down_distributed()


def checkpoint_of(run: Path) -> Path:
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    return checkpoint


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, root: Path, tmp_path: Path) -> None:
    model = VARIANTS[variant]
    expected = {name: draw(name, shape) for name, shape in megatron_shapes(model).items()}
    folders = {}
    for layout in LAYOUTS:
        checkpoint = checkpoint_of(root / layout / variant)
        stored = CheckpointTensors(checkpoint)
        assert stored.shapes == megatron_shapes(model)
        assert all(torch.equal(stored[name], weight) for name, weight in expected.items()), layout
        export_checkpoint(checkpoint, tmp_path / layout, verify=False, max_shard_size="50KB")
        folders[layout] = {path.name: path.read_bytes() for path in (tmp_path / layout).iterdir()}
    assert len([name for name in folders["dp4"] if name.endswith(".safetensors")]) > 1
    for layout in LAYOUTS:
        assert folders[layout] == folders["dp4"], layout

    # Back to a checkpoint: the same weights, padding apart, and the same model section.
    imported = tmp_path / "imported"
    config = import_folder(tmp_path / "dp4", imported, make_vocab_size_divisible_by=64, verify=False).config
    assert config.model == model == load_resolved(imported / "config.yaml").model
    found = CheckpointTensors(imported)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        real = slice(model.vocab_size if name in ("embedding.word_embeddings.weight", "output_layer.weight") else None)
        assert torch.equal(found[name][real], weight[real]), name
        assert not found[name][real.stop :].any() if real.stop else True

    # And once more: the folder's own tensors and settings.
    export_checkpoint(imported, tmp_path / "again", max_shard_size="50KB", verify=False)
    for path in (tmp_path / "dp4").glob("*.safetensors"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    settings = [AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("dp4", "again")]
    for found_settings in settings:
        del found_settings["_name_or_path"], found_settings["training_seq_length"]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits(variant: str, root: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(root / "tp2-pp2" / variant)
    size = VARIANTS[variant].vocab_size
    ids = torch.randint(size, (2, 256), generator=torch.Generator().manual_seed(11))
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        export_checkpoint(checkpoint, tmp_path / name, dtype=name, verify=False)
        folder = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto")
        assert folder.dtype == dtype
        megatron, _ = load_full_model(checkpoint)
        with torch.inference_mode():
            expected = logits_function(megatron.to(dtype))(ids)[..., :size]
            found = folder(ids).logits
        agreement = float((found.argmax(-1) == expected.argmax(-1)).float().mean())
        assert agreement >= 0.99
        if dtype is torch.float32:
            assert float((found - expected).abs().max()) < 1e-4
            assert float(expected.std()) > 1


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gpt_neox"])
def test_folders_of_transformers_come_back_tensor_by_tensor(model_type: str, tmp_path: Path) -> None:
    neox = {"use_parallel_residual": False, "hidden_act": "gelu_pytorch_tanh"} if model_type == "gpt_neox" else {}
    source = make_folder(tmp_path / "source", model_type=model_type, tied=model_type == "qwen3", **neox)
    import_folder(source, tmp_path / "imported")
    export_checkpoint(tmp_path / "imported", tmp_path / "back")
    expected, found = (load_file(path / "model.safetensors") for path in (source, tmp_path / "back"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    before, after = (AutoConfig.from_pretrained(path).to_dict() for path in (source, tmp_path / "back"))
    assert {name: value for name, value in before.items() if after.get(name, value) != value} == {
        "_name_or_path": str(source)
    }


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", dtype="bfloat16")
    config = import_folder(source, tmp_path / "imported").config
    assert config.training.precision == "bf16"
    stored = CheckpointTensors(tmp_path / "imported")
    assert {stored.dtype(name) for name in stored} == {torch.bfloat16}
    export_checkpoint(tmp_path / "imported", tmp_path / "back", dtype="bfloat16")
    expected, found = (load_file(path / "model.safetensors") for path in (source, tmp_path / "back"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == "bfloat16"
