"""Check a conversion: the Megatron model and the Hugging Face folder give equal logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_prealign.checkpoint.sharded import load_full_model
from megatron_prealign.config import ModelConfig
from megatron_prealign.errors import CheckpointError

LogitsFunction = Callable[[Tensor], Tensor]
"""Token ids [B, S] (int64) to logits [B, S, V or more] (fp32); B batch, S sequence, V vocab_size."""

LOGITS_TOLERANCE = 1e-4
"""Largest absolute difference of logits in fp32."""

_PROMPT_SHAPE = (2, 64)


def logits_function(model: torch.nn.Module) -> LogitsFunction:
    """Return the logits of a whole GPTModel (TP1 PP1) as a function of token ids."""

    def logits(ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        # Without a mask the attention is causal.
        found: Tensor = model(input_ids=ids, position_ids=positions, attention_mask=None)
        return found

    return logits


def checkpoint_logits(checkpoint: Path, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the logits of a checkpoint with weights rounded to a type; the model is freed afterwards.

    Args:
        checkpoint: of any layout.
        ids: int64 [B, S].
        dtype: of the rounded weights; the computation is in fp32.

    Returns:
        fp32 [B, S, R], R rows of the padded vocabulary.

    Raises:
        CheckpointError: it can't be loaded.
    """
    model, _ = load_full_model(checkpoint)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    with torch.inference_mode():
        return logits_function(model)(ids)


def check_logits(folder: Path, logits_fn: LogitsFunction, model: ModelConfig) -> float:
    """Compare the logits of a folder, loaded as a user would, with those of the Megatron model on random prompts.

    Args:
        folder: with config.json and weights.
        logits_fn: the Megatron model.
        model: its model section; ids from vocab_size on are left out.

    Returns:
        The largest absolute difference, in fp32.

    Raises:
        CheckpointError: above `LOGITS_TOLERANCE`, or weights of the folder were left out or made up when loading.
    """
    vocab_size = int(model.vocab_size or 0)
    shape = (_PROMPT_SHAPE[0], min(_PROMPT_SHAPE[1], model.max_position_embeddings))
    ids = torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        # First, so that a Megatron model loaded by the function is freed before Hugging Face's is loaded.
        expected = logits_fn(ids).float()[..., :vocab_size]
    loaded = _load(folder)
    with torch.inference_mode():
        found = loaded(input_ids=ids, use_cache=False).logits.float()[..., :vocab_size]
    difference = float((found - expected).abs().max())
    # Written so that a NaN fails too.
    if not difference <= LOGITS_TOLERANCE:
        agreement = float((found.argmax(-1) == expected.argmax(-1)).float().mean())
        raise CheckpointError(
            f"self-check failed: logits of the Hugging Face folder differ from Megatron's by up to {difference:.3g} "
            f"(allowed {LOGITS_TOLERANCE:.0e}); the same token comes first at {agreement:.0%} of positions. "
            "Nothing was written"
        )
    return difference


def _load(folder: Path) -> Any:
    """Load a folder as a user would, and refuse missing and unexpected weights."""
    # transformers takes seconds to import, and a conversion without the self-check does not need it.
    from transformers import AutoModelForCausalLM

    result: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    loaded, info = result
    unused = {kind: sorted(names) for kind, names in info.items() if names}
    if unused:
        raise CheckpointError(f"{folder.name}: transformers did not load the weights as they are: {unused}")
    return loaded.eval()
