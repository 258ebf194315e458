"""A Hugging Face folder opened for evaluation: its model, and the tokenizer as training reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_prealign.errors import CheckpointError, DataError
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class ModelFolder:
    """A causal language model in evaluation mode, with its tokenizer."""

    path: Path
    model: Any
    tokenizer: Tokenizer
    device: torch.device

    @property
    def name(self) -> str:
        """Return the folder's own name."""
        return self.path.name

    @property
    def window(self) -> int:
        """Return the tokens that the model was trained on at once, else those it is declared for."""
        trained = getattr(self.model.config, "training_seq_length", None)
        return int(trained or self.model.config.max_position_embeddings)


def check_folder(path: Path) -> None:
    """Refuse what is not a Hugging Face folder, without loading it.

    Raises:
        CheckpointError: there is no such folder, or it lacks config.json or weights.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; name a Hugging Face folder (tools/convert_checkpoint.py to-hf)")
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise CheckpointError(
            f"{path}: not a Hugging Face folder (config.json and *.safetensors are expected); "
            "convert a checkpoint with tools/convert_checkpoint.py to-hf"
        )


def open_folder(path: Path, device: str = "cpu") -> ModelFolder:
    """Load a folder in fp32.

    Raises:
        CheckpointError: no Hugging Face folder, a damaged one, or its weights and tokenizer don't belong together.
        DataError: no usable tokenizer, or no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: torch sees no GPU here; take --device cpu")
    check_folder(path)
    tokenizer = load_tokenizer(path)
    # transformers takes seconds to import, which a wrong path should not cost.
    from transformers import AutoModelForCausalLM

    try:
        result: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    except Exception as error:
        # Any of its dozens of checks, and safetensors' own.
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: transformers can't load it: {reason}") from error
    model, info = result
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(f"{path}: weights are missing: {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}")
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        raise CheckpointError(
            f"{path}: config.json knows nothing of these weights: {', '.join(unexpected[:5])}"
            f"{' ...' * (len(unexpected) > 5)}"
        )
    damaged = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if damaged:
        raise CheckpointError(f"{path}: weights hold NaN or infinity: {', '.join(damaged[:5])}")
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} ids, the model's vocabulary {rows}: "
            "they don't belong together"
        )
    return ModelFolder(path.resolve(), model.eval().to(device), tokenizer, torch.device(device))
