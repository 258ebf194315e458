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

from megatron_prealign.testing import run_distributed
from tests.alignment.reference import (
    assert_same_gradients,
    naive_alignment,
    reference_model,
    taps_of_word,
    words_of,
)
from tests.workspace import MakeValues

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
    words = plan_run(trainer.config).items["word"]
    return {
        "metrics": trainer.stage.take_metrics(),
        "gradients": full_gradients(trainer.chunks),
        "config": trainer.config,
        "words": [words.batch(index) for index in range(trainer.config.alignment.num_word_microbatches)],
        "sequences": passes[1].microbatches,
    }


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
    model = {"num_layers": 2, "architecture": architecture, "untie_embeddings_and_output_weights": not tied}
    model["num_query_groups"] = 2 if architecture == "llama" else None
    weights = {"alignment_weight": ALIGNMENT_WEIGHT, "lm_weight": LM_WEIGHT}
    (result,) = run_distributed(
        _take_one_step, 1, make_values("align_init", tmp_path / "run", model=model, alignment=weights)
    )
    reference = reference_model(tmp_path)
    tap_losses = []
    for batch in result["words"]:
        tap_losses.append(naive_alignment([taps_of_word(reference, word, tied) for word in words_of(batch)], batch))
    tap_loss, lm_loss = torch.stack(tap_losses).mean(0), _naive_lm(reference, result["sequences"])
    assert list(result["metrics"]["tap_loss"].values()) == pytest.approx(tap_loss.tolist(), rel=1e-5)
    assert result["metrics"]["lm_loss"] == pytest.approx(float(lm_loss), rel=1e-5)
    (ALIGNMENT_WEIGHT * tap_loss.mean() + LM_WEIGHT * lm_loss).backward()
    assert_same_gradients(reference, result["gradients"], result["config"], 1e-5)
