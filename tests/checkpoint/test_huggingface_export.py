"""The exported folder: equal logits, readable by transformers, complete, atomic, and checked before it appears."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_prealign.checkpoint.huggingface import export_folder
from megatron_prealign.config import ModelConfig
from megatron_prealign.errors import CheckpointError
from tests.checkpoint.models import LLAMA, build, export_model, make_config

UNTIED_LLAMA = replace(LLAMA, untie_embeddings_and_output_weights=True, num_query_groups=1)
GPT_NEOX = replace(LLAMA, architecture="gpt_neox", num_query_groups=None, rotary_percent=0.5)
QWEN2 = replace(UNTIED_LLAMA, architecture="qwen2", num_query_groups=2)
QWEN3 = replace(LLAMA, architecture="qwen3", kv_channels=12)
UNTIED_GPT_NEOX = replace(GPT_NEOX, untie_embeddings_and_output_weights=True)


@pytest.mark.parametrize("model_config", [LLAMA, UNTIED_LLAMA, QWEN2, QWEN3, GPT_NEOX, UNTIED_GPT_NEOX])
def test_logits_of_the_folder_equal_those_of_megatron(
    model_config: ModelConfig, one_rank: torch.device, bpe_folder: Path, tmp_path: Path
) -> None:
    config = make_config(model_config)
    model = build(config, one_rank)
    # transformers 5 reads every tokenizer beside a qwen2 model as Qwen's, which this one is not.
    export_model(model, config, bpe_folder, tmp_path / "out", verify=model_config.architecture != "qwen2")

    ids = torch.randint(501, (3, 48), generator=torch.Generator().manual_seed(7))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.inference_mode():
        found = loaded(ids).logits
        expected = model(ids, torch.arange(48).expand(3, 48), None)
    assert found.shape == (3, 48, 501)
    assert float(expected.abs().max()) > 1
    assert float((found - expected[..., :501]).abs().max()) < 1e-4
    assert loaded.config.tie_word_embeddings is not model_config.untie_embeddings_and_output_weights
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_config_reads_right_by_the_names_of_both_releases(
    one_rank: torch.device, bpe_folder: Path, tmp_path: Path
) -> None:
    config = make_config(GPT_NEOX)
    export_model(build(config, one_rank), config, bpe_folder, tmp_path / "out", verify=False)
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert content["rope_parameters"] == {"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.5}
    assert (content["rotary_emb_base"], content["rotary_pct"]) == (50000.0, 0.5)
    assert (content["rope_theta"], content["partial_rotary_factor"]) == (50000.0, 0.5)
    assert content["dtype"] == content["torch_dtype"] == "float32"
    assert content["use_parallel_residual"] is False
    assert content["hidden_act"] == "gelu_pytorch_tanh"
    assert (content["bos_token_id"], content["eos_token_id"], content["vocab_size"]) == (None, 0, 501)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}


def test_generation_stops_at_the_end_of_document(one_rank: torch.device, bpe_folder: Path, tmp_path: Path) -> None:
    config = make_config(UNTIED_GPT_NEOX)
    model = build(config, one_rank)
    with torch.no_grad():
        # The final norm's bias makes the hidden states point at one row of the output layer, whatever the input.
        model.decoder.final_layernorm.bias.fill_(5.0)
        model.output_layer.weight[0] = 5.0
    export_model(model, config, bpe_folder, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt = tokenizer(["The if statement", "A class"], return_tensors="pt", padding=True, padding_side="left")
    generated = loaded.generate(**prompt, do_sample=False, max_new_tokens=20)
    assert generated.shape[1] == prompt["input_ids"].shape[1] + 1
    assert generated[:, -1].tolist() == [0, 0]


def test_bfloat16_and_shards_hold_the_rounded_weights(one_rank: torch.device, bpe_folder: Path, tmp_path: Path) -> None:
    config = make_config(UNTIED_LLAMA)
    model = build(config, one_rank)
    head = model.output_layer.weight[:501].bfloat16()
    export_model(model, config, bpe_folder, tmp_path / "out", dtype="bfloat16", max_shard_size="40KB")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert {path.name for path in files} == set(index["weight_map"].values())
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors.update(load_file(path))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert torch.equal(tensors["lm_head.weight"], head)


def test_a_failed_self_check_leaves_nothing_and_keeps_what_was_there(
    one_rank: torch.device, bpe_folder: Path, tmp_path: Path
) -> None:
    config = make_config(LLAMA)
    model = build(config, one_rank)
    output = tmp_path / "out"

    def shifted(ids: Tensor) -> Tensor:
        logits = model(ids, torch.arange(ids.shape[1]).expand_as(ids), None)
        return logits + 2e-4 * (torch.arange(512) == 77)

    def undefined(ids: Tensor) -> Tensor:
        return torch.full((*ids.shape, 512), torch.nan)

    for logits_fn in (shifted, undefined):
        with pytest.raises(CheckpointError, match="self-check failed: logits"):
            export_folder(model.state_dict(), config, bpe_folder, output, logits_fn=logits_fn)
        assert not list(tmp_path.iterdir())

    export_model(model, config, bpe_folder, output)
    written = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(CheckpointError, match=r"out exists.*--overwrite"):
        export_model(model, config, bpe_folder, output)
    with pytest.raises(CheckpointError, match="self-check failed"):
        export_folder(model.state_dict(), config, bpe_folder, output, logits_fn=shifted, overwrite=True)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == written
    (output / "stale").touch()
    export_model(model, config, bpe_folder, output, overwrite=True)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == written
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_gpt_neox_with_grouped_queries_is_refused_before_anything_is_written(bpe_folder: Path, tmp_path: Path) -> None:
    config = make_config(replace(GPT_NEOX, num_query_groups=2))
    with pytest.raises(CheckpointError, match="num_query_groups is 2"):
        export_folder({}, config, bpe_folder, tmp_path / "sub" / "out")
    assert not list(tmp_path.iterdir())
