"""A Hugging Face folder opened for evaluation: its model, and the tokenizer as training reads it.

torch and transformers take seconds to import; a mistake on the command line is reported before that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_prealign.config.alignment import tap_names
from megatron_prealign.errors import CheckpointError, DataError
from megatron_prealign.text.frame import document_frame
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModelFolder:
    """A causal language model in evaluation mode, with its tokenizer."""

    path: Path
    model: Any
    tokenizer: Tokenizer
    device: str
    """cpu or cuda."""

    @property
    def window(self) -> int:
        """Sequence length of the training in tokens; the model's longest where the folder does not say."""
        trained = getattr(self.model.config, "training_seq_length", None)
        return int(trained or self.model.config.max_position_embeddings)

    @property
    def document_start(self) -> list[int]:
        """Tokens before the text of a document, as in training: those of its frame, or else the end of another one."""
        return document_frame(self.tokenizer).context

    @property
    def is_tied(self) -> bool:
        """Whether the output embedding is the input embedding."""
        return self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight

    @property
    def taps(self) -> list[str]:
        """Names of the model's taps, in order."""
        return tap_names(int(self.model.config.num_hidden_layers), tied=self.is_tied)

    @property
    def vocab_size(self) -> int:
        """Number of logits at a position."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def states_and_head(self, ids: "Tensor") -> "tuple[Tensor, Callable[[Tensor], Tensor]]":
        """Return states [B, S, ...] of token ids [B, S], and the function from some of them [N, ...] to logits [N, V].

        They are hidden states, or logits themselves if the model scales or caps what its output embedding gives.
        """
        if self._has_plain_head:
            states = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            return states, self.model.get_output_embeddings()
        return self.model(input_ids=ids, use_cache=False).logits, lambda logits: logits

    @cached_property
    def _has_plain_head(self) -> bool:
        """Whether logits are the output embedding of the hidden states and nothing else."""
        import torch

        ids = torch.arange(min(self.vocab_size, 8), device=self.device)[None]
        with torch.inference_mode():
            output = self.model(input_ids=ids, use_cache=False, output_hidden_states=True)
            plain = self.model.get_output_embeddings()(output.hidden_states[-1])
        return bool(torch.equal(plain, output.logits))


def check_folder(path: Path) -> None:
    """Refuse a path that is not a Hugging Face folder, without loading it.

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


def open_folder(path: Path, device: str = "cpu", eod_token: str | None = None) -> ModelFolder:
    """Load a folder in fp32; `eod_token` ends documents instead of the tokenizer's eos_token.

    Raises:
        CheckpointError: not a Hugging Face folder, damaged, or its weights and tokenizer don't belong together.
        DataError: no usable tokenizer, or no such device.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: torch finds no GPU; use --device cpu")
    check_folder(path)
    tokenizer = load_tokenizer(path, eod_token)
    from transformers import AutoModelForCausalLM

    try:
        result: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # transformers and safetensors raise many types
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: transformers can't load it ({reason}); export or download it again") from error
    model, info = result
    damaged = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    for what, names in (
        ("weights are missing", sorted(info["missing_keys"])),
        ("config.json does not describe these weights", sorted(info["unexpected_keys"])),
        ("weights hold NaN or infinity", damaged),
    ):
        if names:
            raise CheckpointError(f"{path}: {what}: {', '.join(names[:5])}{' ...' * (len(names) > 5)}")
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} ids, but the model's vocabulary has {rows}: "
            "use the tokenizer that the model was trained with"
        )
    return ModelFolder(path.resolve(), model.eval().to(device), tokenizer, device)
