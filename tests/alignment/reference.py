"""A naive reference of stage 1: Hugging Face's forward pass over each word alone, and the loss in double loops."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_prealign.checkpoint.huggingface import to_huggingface
from megatron_prealign.config import Config
from megatron_prealign.pairs.batches import ItemBatch

TEMPERATURE = 0.1


def reference_model(folder: Path) -> Any:
    """Export the checkpoint in folder/run and open it in float64."""
    from transformers import AutoModelForCausalLM

    from tools.convert_checkpoint import main as convert

    assert convert(["to-hf", "--checkpoint", str(folder / "run"), "--output", str(folder / "hf")]) == 0
    return AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float64).eval()


def words_of(batch: ItemBatch) -> list[Tensor]:
    """Return the token ids of each word of a microbatch of one rank."""
    packed = batch.packed
    return [torch.tensor(packed.token_ids[packed.item_index == word]) for word in range(batch.num_items)]


def naive_alignment(taps: list[list[Tensor]], batch: ItemBatch) -> Tensor:
    """Loss of each tap, [taps], by the formula of design.md, from the vectors of each word at each tap."""
    excluded = {(int(i), int(k)) for i, k in batch.excluded_pairs}
    groups = batch.group_ids.tolist()
    losses = []
    for words in zip(*taps, strict=True):
        unit = [word / word.norm() for word in words]
        terms = []
        for i in range(len(unit)):
            positives = [j for j in range(len(unit)) if j != i and groups[j] == groups[i]]
            others = [k for k in range(len(unit)) if k != i and (i, k) not in excluded]
            if positives:
                denominator = sum((unit[i] @ unit[k] / TEMPERATURE).exp() for k in others)
                logs = [((unit[i] @ unit[j] / TEMPERATURE).exp() / denominator).log() for j in positives]
                terms.append(-sum(logs) / len(positives))
        losses.append(sum(terms) / len(terms))
    return torch.stack(losses)


def taps_of_word(model: Any, token_ids: Tensor, tied: bool) -> list[Tensor]:
    """Return the vector of one word at each tap."""
    hidden = model(token_ids[None], output_hidden_states=True).hidden_states
    taps = [layer[0].mean(0) for layer in hidden]
    return taps if tied else [*taps, model.get_output_embeddings().weight[token_ids].mean(0)]


def assert_same_gradients(reference: Any, gradients: dict[str, Tensor], config: Config, tolerance: float) -> None:
    """Compare gradients under Megatron's names with those of the reference, by the measure of design.md."""
    # transformers 5 calls GPT-NeoX's output embedding lm_head, and its files by their old name.
    rename = {"lm_head.weight": "embed_out.weight"} if config.model.architecture == "gpt_neox" else {}
    named = {rename.get(name, name): parameter for name, parameter in reference.named_parameters()}
    ours = to_huggingface(gradients, config.model)
    assert ours.keys() == named.keys()
    global_norm = torch.stack([parameter.grad.norm() for parameter in named.values()]).norm()
    for name, parameter in named.items():
        error = (ours[name] - parameter.grad).norm()
        assert error <= tolerance * max(parameter.grad.norm(), 1e-3 * global_norm), (name, float(error))
