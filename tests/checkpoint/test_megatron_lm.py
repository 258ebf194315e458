"""Checkpoints of Megatron-LM: written by megatron-core with an argparse.Namespace beside the weights, as it does."""

import argparse
import shutil
from collections import OrderedDict, deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedObject
from megatron.core.transformer.enums import AttnBackend

from megatron_prealign.checkpoint.huggingface.logits import logits_function
from megatron_prealign.checkpoint.sharded import load_full_model
from megatron_prealign.checkpoint.tensors import CheckpointTensors
from megatron_prealign.config import ModelConfig
from megatron_prealign.model import PrealignGPTModel
from tests.checkpoint.models import LLAMA, build, make_config
from tests.evaluation.folders import make_folder, tokenizer_json
from tools.convert_checkpoint import main

# Megatron-LM pads to its own multiple, and trains the padding.
UNTIED_LLAMA = replace(
    LLAMA, untie_embeddings_and_output_weights=True, vocab_size=700, make_vocab_size_divisible_by=512
)
MODELS = {
    "llama": UNTIED_LLAMA,
    "llama 3.2": replace(UNTIED_LLAMA, rope_scaling="llama3", rope_scaling_factor=32.0),
    "qwen3": replace(UNTIED_LLAMA, architecture="qwen3", kv_channels=12, untie_embeddings_and_output_weights=False),
    "qwen2": replace(UNTIED_LLAMA, architecture="qwen2", num_query_groups=1),
    "gpt_neox": replace(UNTIED_LLAMA, architecture="gpt_neox", num_query_groups=None, rotary_percent=0.5),
}


class Bomb:
    """What a pickle can do when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def arguments(model: ModelConfig) -> dict[str, Any]:
    """Return the command line that makes Megatron-LM train this model, defaults and objects of its own among it."""
    traits = model.traits
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "group_query_attention": model.num_query_groups is not None,
        "num_query_groups": model.num_query_groups or 1,
        "kv_channels": model.head_size,
        "max_position_embeddings": model.max_position_embeddings,
        "position_embedding_type": "rope",
        "rotary_percent": model.rotary_percent,
        "rotary_base": int(model.rotary_base),
        "use_rope_scaling": model.rope_scaling == "llama3",
        "rope_scaling_factor": model.rope_scaling_factor,
        "normalization": traits.normalization,
        "norm_epsilon": model.norm_epsilon,
        "swiglu": traits.has_gated_mlp,
        "add_bias_linear": traits.has_linear_bias,
        "add_qkv_bias": traits.has_qkv_bias and not traits.has_linear_bias,
        "qk_layernorm": traits.has_qk_norm,
        "untie_embeddings_and_output_weights": model.untie_embeddings_and_output_weights,
        "init_method_std": model.init_method_std,
        "padded_vocab_size": model.padded_vocab_size,
        "bias_gelu_fusion": True,
        "params_dtype": torch.bfloat16,
        "attention_backend": AttnBackend.auto,
        "num_experts": None,
        # Whatever else a fork may have put there.
        "others": [OrderedDict(a=1), deque([2]), torch.zeros(3), Path("b")],
        "data_path": ["0.3", "a", "0.7", "b"],
    }


def write(
    folder: Path,
    model: ModelConfig,
    device: torch.device,
    metadata: dict[str, Any] | None = None,
    *,
    in_shards: bool = False,
    **changes: Any,
) -> PrealignGPTModel:
    """Write a checkpoint as Megatron-LM does, and return the model in it; `in_shards` as from megatron-core 0.17 on."""
    built = build(make_config(model), device)
    iteration = folder / "iter_0000005"
    iteration.mkdir(parents=True)
    args = argparse.Namespace(**arguments(model) | changes)
    state = {"args": args, "checkpoint_version": 3.0, "iteration": 5, "opt_param_scheduler": {"num_steps": 80}}
    weights = {"model": built.sharded_state_dict(metadata=metadata)}
    dist_checkpointing.save(state | weights, str(iteration))
    common = iteration / "common.pt"
    if in_shards and common.exists():
        shutil.rmtree(iteration)
        iteration.mkdir()
        weights["common_state"] = ShardedObject("common_state", state, (1,), (0,))
        dist_checkpointing.save(weights, str(iteration))
        common.unlink()
    (folder / "latest_checkpointed_iteration.txt").write_text("5")
    return built


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tokenizer") / "llama") / "tokenizer.json"


def convert(source: Path, output: Path, *options: object) -> int:
    return main(["from-megatron-lm", "--checkpoint", str(source), "--output", str(output), *map(str, options)])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("metadata", [None, {"non_homogeneous_layers": True}], ids=["stacked", "layer by layer"])
def test_the_model_goes_on_as_it_was(
    name: str, metadata: dict[str, Any] | None, tokenizer: Path, tmp_path: Path, one_rank: torch.device
) -> None:
    model = MODELS[name]
    written = write(tmp_path / "megatron", model, one_rank, metadata, hook=Bomb(tmp_path / "exploded"))
    assert convert(tmp_path / "megatron", tmp_path / "out", "--tokenizer", tokenizer) == 0
    assert not (tmp_path / "exploded").exists()
    loaded, config = load_full_model(tmp_path / "out")
    assert config.model == replace(model, make_vocab_size_divisible_by=128, transformer_impl="local")
    ids = torch.randint(700, (2, 48), generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        expected, found = (logits_function(one)(ids)[..., :700] for one in (written, loaded))
    assert torch.equal(found, expected)
    # Megatron-LM trains the padding; here it is masked.
    before, after = CheckpointTensors(tmp_path / "megatron" / "iter_0000005"), CheckpointTensors(tmp_path / "out")
    assert before["embedding.word_embeddings.weight"][700:].any()
    assert not after["embedding.word_embeddings.weight"][700:].any()


def test_arguments_are_found_among_the_shards(
    tokenizer: Path, tmp_path: Path, one_rank: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "megatron"
    written = write(source, UNTIED_LLAMA, one_rank, in_shards=True, hook=Bomb(tmp_path / "exploded"))
    assert not (source / "iter_0000005" / "common.pt").exists()
    assert convert(source, tmp_path / "out", "--tokenizer", tokenizer) == 0
    assert not (tmp_path / "exploded").exists()
    assert torch.equal(
        CheckpointTensors(tmp_path / "out")["output_layer.weight"][:700], written.output_layer.weight[:700]
    )
    for shard in source.rglob("*.distcp"):
        shard.unlink()
    assert convert(source, tmp_path / "other", "--tokenizer", tokenizer) == 2
    assert ".distcp: can't be read (No such file or directory)" in capsys.readouterr().err


def test_a_tokenizer_that_grew_gets_rows(tokenizer: Path, tmp_path: Path, one_rank: torch.device) -> None:
    written = write(tmp_path / "megatron", UNTIED_LLAMA, one_rank)
    grown = tmp_path / "grown.json"
    grown.write_text(tokenizer_json(vocab_size=760), encoding="utf-8")
    options = ("--tokenizer", grown, "--old-tokenizer", tokenizer, "--new-rows", "mean")
    assert convert(tmp_path / "megatron" / "iter_0000005", tmp_path / "out", *options) == 0
    rows = CheckpointTensors(tmp_path / "out")["output_layer.weight"]
    before = written.output_layer.weight[:700]
    assert torch.equal(rows[:700], before)
    assert torch.equal(rows[700:760], before.mean(0).expand(60, -1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_experts": 8}, "num_experts 8: mixture of experts"),
        ({"position_embedding_type": "learned_absolute"}, "only rotary embeddings (rope) are supported"),
        ({"rotary_seq_len_interpolation_factor": 2}, "rope scaling: positions are interpolated"),
        ({"rotary_interleaved": True}, "rotary embeddings turn neighbouring dimensions"),
        ({"apply_layernorm_1p": True}, "norm weights are stored less one"),
        ({"normalization": "LayerNorm"}, "no supported architecture has layers with these parts"),
        ({"hidden_size": None}, "no hidden_size: not the arguments of a GPT model"),
        ({"num_layers": 3}, "decoder.layers.2.mlp.linear_fc1.weight is missing"),
        ({"ffn_hidden_size": 40}, "the model section says [80, 32]"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    changes: dict[str, Any],
    reason: str,
    tokenizer: Path,
    tmp_path: Path,
    one_rank: torch.device,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "megatron", UNTIED_LLAMA, one_rank, **changes)
    assert convert(tmp_path / "megatron", tmp_path / "out", "--tokenizer", tokenizer) == 2
    assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["megatron"]


def test_other_formats_and_other_tokenizers_are_refused(
    tokenizer: Path, tmp_path: Path, one_rank: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "megatron"
    write(source, replace(UNTIED_LLAMA, vocab_size=500), one_rank)

    def refused(*options: object) -> str:
        assert convert(source, tmp_path / "out", "--tokenizer", *(options or (tokenizer,))) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "has 512 rows, but the tokenizer has 700 ids" in refused()
    assert "nowhere" in refused(tmp_path / "nowhere")
    common = source / "iter_0000005" / "common.pt"
    torch.save({"iteration": 5}, common)
    assert "common.pt: no args in it: not a Megatron-LM checkpoint" in refused()
    common.write_bytes(b"no archive")
    assert "common.pt: not written by torch.save" in refused()
    metadata = source / "iter_0000005" / "metadata.json"
    metadata.write_text('{"sharded_backend": "zarr"}')
    assert "a checkpoint in the format 'zarr'; convert it to 'torch_dist' with Megatron-LM" in refused()
    metadata.unlink()
    assert "name a torch_dist checkpoint" in refused()
