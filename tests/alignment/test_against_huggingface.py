"""Stage 1's losses and gradients equal a naive reference on the exported model.

The reference is Hugging Face's own forward pass over each word alone, the loss in double loops, PyTorch's autograd.
Nothing is shared with the code under test but the words and sequences of the step.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from megatron_prealign.checkpoint.huggingface import to_huggingface
from megatron_prealign.config import Config
from megatron_prealign.testing import run_distributed
from tests.workspace import MakeValues

TEMPERATURE = 0.1
ALIGNMENT_WEIGHT, LM_WEIGHT = 0.7, 0.3


def _take_one_step(values: Any) -> dict[str, Any]:
    """Save the initial model and return one step's losses, gradients and data."""
    from megatron_prealign.testing.trainers import full_gradients, make_trainer
    from megatron_prealign.training.setup import plan_run

    trainer = make_trainer(values)
    passes = trainer.stage.next_passes(trainer.state)
    trainer.stage.next_passes = lambda _: passes  # type: ignore[method-assign]
    trainer.compute_gradients()
    trainer.save()
    words = plan_run(trainer.config).words
    assert words is not None
    return {
        "metrics": trainer.stage.take_metrics(),
        "gradients": full_gradients(trainer.chunks),
        "config": trainer.config,
        "words": [words.batch(index) for index in range(trainer.config.alignment.num_word_microbatches)],
        "sequences": passes[1].microbatches,
    }


def _naive_alignment(taps: list[list[Tensor]], batch: Any) -> Tensor:
    """Loss of each tap, [taps], by the formula of design.md."""
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


def _taps_of_word(model: Any, token_ids: Tensor, tied: bool) -> list[Tensor]:
    hidden = model(token_ids[None], output_hidden_states=True).hidden_states
    taps = [layer[0].mean(0) for layer in hidden]
    return taps if tied else [*taps, model.get_output_embeddings().weight[token_ids].mean(0)]


def _naive_lm(model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for batch in batches:
        log_probabilities = functional.log_softmax(model(batch["tokens"]).logits, dim=-1)
        chosen = log_probabilities.gather(-1, batch["labels"][..., None])[..., 0]
        total = total - (chosen * batch["loss_mask"]).sum()
        count += float(batch["loss_mask"].sum())
    return total / count


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_losses_and_gradients_equal_naive_reference(
    tied: bool, architecture: str, make_values: MakeValues, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from tools.convert_checkpoint import main as convert

    model = {"num_layers": 2, "architecture": architecture, "untie_embeddings_and_output_weights": not tied}
    model["num_query_groups"] = 2 if architecture == "llama" else None
    weights = {"alignment_weight": ALIGNMENT_WEIGHT, "lm_weight": LM_WEIGHT}
    (result,) = run_distributed(
        _take_one_step, 1, make_values("align_init", tmp_path / "run", model=model, alignment=weights)
    )
    assert convert(["to-hf", "--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "hf")]) == 0
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float64).eval()
    tap_losses = []
    for batch in result["words"]:
        packed = batch.packed
        words = [torch.tensor(packed.token_ids[packed.word_index == word]) for word in range(batch.num_words)]
        tap_losses.append(_naive_alignment([_taps_of_word(reference, word, tied) for word in words], batch))
    tap_loss, lm_loss = torch.stack(tap_losses).mean(0), _naive_lm(reference, result["sequences"])
    assert list(result["metrics"]["tap_loss"].values()) == pytest.approx(tap_loss.tolist(), rel=1e-5)
    assert result["metrics"]["lm_loss"] == pytest.approx(float(lm_loss), rel=1e-5)
    (ALIGNMENT_WEIGHT * tap_loss.mean() + LM_WEIGHT * lm_loss).backward()
    _assert_same_gradients(reference, result["gradients"], result["config"])


def _assert_same_gradients(reference: Any, gradients: dict[str, Tensor], config: Config) -> None:
    # transformers 5 calls GPT-NeoX's output embedding lm_head, and its files by their old name.
    rename = {"lm_head.weight": "embed_out.weight"} if config.model.architecture == "gpt_neox" else {}
    named = {rename.get(name, name): parameter for name, parameter in reference.named_parameters()}
    ours = to_huggingface(gradients, config.model)
    assert ours.keys() == named.keys()
    global_norm = torch.stack([parameter.grad.norm() for parameter in named.values()]).norm()
    for name, parameter in named.items():
        error = (ours[name] - parameter.grad).norm()
        assert error <= 1e-5 * max(parameter.grad.norm(), 1e-3 * global_norm), (name, float(error))
