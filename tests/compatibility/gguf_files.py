"""An exported folder of Llama or Qwen3 as a GGUF file for llama.cpp."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy
from safetensors.numpy import load_file

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}


def write_gguf(folder: Path, output: Path, pre_tokenizer: str = "qwen35") -> None:
    """Write weights, shape and tokenizer in fp32.

    Args:
        folder: the exported folder, its weights in one file.
        output: file to write.
        pre_tokenizer: llama.cpp's name of the rule that splits text.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(output, gguf.MODEL_ARCH_NAMES[architecture])
    _add_shape(writer, config)
    _add_tokenizer(writer, folder, pre_tokenizer)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        if config["model_type"] == "llama" and ".self_attn." in name:
            num_heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
            tensor = _interleave(tensor, num_heads.get(name.split(".")[-2]))
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Add what llama.cpp reads of config.json."""
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, pre_tokenizer: str) -> None:
    """Add vocabulary and merges of a byte-level BPE."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in content["added_tokens"]}
    vocabulary = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_token_types([kinds[token in special] for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_bos_token_id(vocabulary[settings["bos_token"]])
    writer.add_eos_token_id(vocabulary[settings["eos_token"]])
    writer.add_add_bos_token(settings["add_bos_token"])


def _interleave(weight: numpy.ndarray, num_heads: int | None) -> numpy.ndarray:
    """Order the rows of each head of a query or key as llama.cpp rotates a Llama: the two of a pair are neighbours."""
    if num_heads is None:
        return weight
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return numpy.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
