"""Small random Hugging Face folders with a real tokenizer."""

import json
import pydoc_data.topics
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

PROSE = [text for _, text in sorted(pydoc_data.topics.topics.items())]


@cache
def tokenizer_json(is_qwen: bool = False, vocab_size: int = 700) -> str:
    """Train a tokenizer; a larger one begins with the ids of a smaller one."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if is_qwen:
        # transformers 5 reads the tokenizer of every qwen2 model this way, whatever its file says.
        words = pre_tokenizers.Split(tokenizers.Regex(PRETOKENIZE_REGEX), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROSE, trainer)
    return tokenizer.to_str()


@cache
def tokenizer_json_with_bos(vocab_size: int = 700) -> str:
    """Train a tokenizer that begins every text with its last token, <s>."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json(vocab_size=vocab_size - 1))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocab_size - 1)]
    )
    return tokenizer.to_str()


def make_folder(
    path: Path,
    *,
    model_type: str = "llama",
    tied: bool = False,
    has_eod: bool = True,
    adds_bos: bool = False,
    **settings: Any,
) -> Path:
    """Write a model of 2 layers with random weights large enough to make its predictions uneven."""
    shape: dict[str, Any] = {
        "vocab_size": 700,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    config = AutoConfig.for_model(model_type, **(shape | settings))
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=settings.get("dtype"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(path)
    content = json.loads(tokenizer_json_with_bos() if adds_bos else tokenizer_json(model_type == "qwen2"))
    if not has_eod:
        content["added_tokens"] = []
        content["model"]["vocab"]["unused"] = content["model"]["vocab"].pop("<|endoftext|>")
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def make_ending(folder: Path) -> None:
    """Change an untied model so that it ends every text at once, whatever is in it."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        # Equal embeddings make equal hidden states; one row of the output layer points their way.
        embeddings = model.get_input_embeddings().weight
        embeddings.copy_(embeddings[1].clone().expand_as(embeddings))
        hidden = model(torch.ones(1, 1, dtype=torch.long), output_hidden_states=True).hidden_states[-1][0, 0]
        model.get_output_embeddings().weight[model.config.eos_token_id] = 3 * hidden / hidden.norm()
    model.save_pretrained(folder)
