"""Small models that the tests of this folder share."""

from pathlib import Path
from typing import Any

import torch

from megatron_prealign.checkpoint.huggingface.export import DTYPES, export_folder
from megatron_prealign.checkpoint.huggingface.logits import logits_function
from megatron_prealign.config import Config, DataConfig, ModelConfig, TrainingConfig
from megatron_prealign.model import PrealignGPTModel, build_model_chunks

LLAMA = ModelConfig(
    architecture="llama",
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=48,
    max_position_embeddings=64,
    vocab_size=501,
    make_vocab_size_divisible_by=16,
    rotary_base=50000.0,
    # Large weights, so that a wrong layout moves logits far.
    init_method_std=0.2,
)


def make_config(model: ModelConfig) -> Config:
    """Return a configuration around a model section."""
    return Config(model=model, data=DataConfig(seq_length=48), training=TrainingConfig(device="cpu"))


def build(config: Config, device: torch.device) -> PrealignGPTModel:
    """Build a Megatron model whose biases and norms differ from their initial zeros and ones."""
    (model,) = build_model_chunks(config, device)
    assert isinstance(model, PrealignGPTModel)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def export_model(
    model: torch.nn.Module,
    config: Config,
    tokenizer_path: Path,
    output: Path,
    *,
    dtype: str = "float32",
    verify: bool = True,
    **options: Any,
) -> None:
    """Write a model as a Hugging Face folder; its parameters are rounded to `dtype` in place, as the folder's are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPES[dtype]).float()
    logits_fn = logits_function(model.eval()) if verify else None
    export_folder(model.state_dict(), config, tokenizer_path, output, dtype=dtype, logits_fn=logits_fn, **options)
