"""Models that people start from: their published config.json, smaller, with random weights; equal logits both ways."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_prealign.checkpoint.huggingface import export_checkpoint, import_folder
from megatron_prealign.checkpoint.huggingface.import_config import model_section
from megatron_prealign.checkpoint.huggingface.logits import LOGITS_TOLERANCE, check_logits, checkpoint_logits
from megatron_prealign.checkpoint.manifest import write_manifest
from megatron_prealign.config import dump_config
from megatron_prealign.errors import CheckpointError
from megatron_prealign.platform import shut_down_distributed
from tests.evaluation.folders import tokenizer_json

LLAMA_3: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
}
SMOLLM3: dict[str, Any] = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0, 1, 1],
    "pad_token_id": 128004,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
OLMO_2: dict[str, Any] = {
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
}
PUBLISHED = {
    "Llama 3.1 8B": LLAMA_3,
    "Llama 3.2 1B": LLAMA_3
    | {"head_dim": 8, "tie_word_embeddings": True, "rope_scaling": LLAMA_3["rope_scaling"] | {"factor": 32.0}},
    "Mistral 7B v0.3": MISTRAL,
    "Mistral Nemo": MISTRAL | {"head_dim": 12, "max_position_embeddings": 131072},
    "Qwen2.5 7B with YaRN": QWEN2,
    "SmolLM2 135M": SMOLLM2 | {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 48},
    "SmolLM3 3B": SMOLLM3,
}
SMALLER = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 700,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": None,
}


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    yield
    shut_down_distributed()


def make_folder(folder: Path, published: dict[str, Any]) -> Path:
    """Write a published configuration word for word, but for sizes and ids, and random weights."""
    folder.mkdir()
    settings = SMALLER | published | {name: SMALLER[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "config.json").write_text(json.dumps(settings))
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(tokenizer_json(published["model_type"] == "qwen2"), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_they_are_continued_and_come_back(name: str, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", PUBLISHED[name])
    # Each direction compares logits.
    config = import_folder(source, tmp_path / "imported").config
    assert config.model.architecture == PUBLISHED[name]["model_type"]
    export_checkpoint(tmp_path / "imported", tmp_path / "back")
    expected, found = (load_file(path / "model.safetensors") for path in (source, tmp_path / "back"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    before, after = (AutoConfig.from_pretrained(path).to_dict() for path in (source, tmp_path / "back"))
    for found_settings in (before, after):
        found_settings["rope_parameters"].pop("type", None)  # the older name of rope_type
    differing = {key: value for key, value in before.items() if after.get(key, value) != value}
    assert differing.keys() <= {"_name_or_path", "dtype", "max_window_layers"}
    assert model_section(tmp_path / "back", 128) == config.model


@pytest.mark.parametrize("name", ["Llama 3.1 8B", "Qwen2.5 7B with YaRN", "SmolLM3 3B"])
def test_what_is_special_in_them_changes_their_logits(name: str, tmp_path: Path) -> None:
    source, imported = make_folder(tmp_path / "source", PUBLISHED[name]), tmp_path / "imported"
    config = import_folder(source, imported, verify=False).config
    plain = replace(config, model=replace(config.model, rope_scaling="none", no_rope_freq=None))
    (imported / "config.yaml").write_text(dump_config(plain))
    write_manifest(imported, {})
    with pytest.raises(CheckpointError, match="logits of the Hugging Face folder differ") as caught:
        check_logits(source, lambda ids: checkpoint_logits(imported, ids), plain.model)
    assert float(str(caught.value).split("by up to ")[1].split(" ")[0]) > 10 * LOGITS_TOLERANCE


REFUSED = {
    "sliding window": (MISTRAL | {"sliding_window": 4096}, r"sliding-window attention \(sliding_window 4096\)"),
    "norms behind": (OLMO_2, r"'olmo2' is not a supported architecture \(its norms stand behind attention and MLP"),
    "another first length": (
        LLAMA_3 | {"rope_scaling": LLAMA_3["rope_scaling"] | {"original_max_position_embeddings": 4096}},
        r"'llama3' with original_max_position_embeddings 4096: here it is computed with 8192",
    ),
    "sharper attention": (
        QWEN2 | {"rope_scaling": QWEN2["rope_scaling"] | {"attention_factor": 1.5}},
        r"'yarn' with attention_factor 1\.5: here it is computed with 1\.13863",
    ),
    "another pattern": (SMOLLM3 | {"no_rope_layers": [1, 0, 0, 1, 1, 1]}, "only every n-th layer can be without"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_megatron_core_does_not_model_is_refused(name: str, tmp_path: Path) -> None:
    published, reason = REFUSED[name]
    (tmp_path / "config.json").write_text(json.dumps(SMALLER | published))
    with pytest.raises(CheckpointError, match=reason):
        model_section(tmp_path, 128)
