"""Stage 1's loss equals a naive reference on the exported model: Hugging Face's own forward pass, double loops.

Nothing is shared with the code under test but the words of the batch.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_prealign.testing import run_distributed
from tests.alignment.test_contrastive import naive_loss
from tests.workspace import MakeValues


def _train_one_step(values: Any) -> dict[str, Any]:
    """Save the initial model, then return one step's tap losses and the words they were computed on."""
    from megatron_prealign.testing.trainers import make_trainer
    from megatron_prealign.training.setup import plan_run

    trainer = make_trainer(values)
    trainer.save()
    trainer.compute_gradients()
    words = plan_run(trainer.config).words
    assert words is not None
    batches = [words.batch(index) for index in range(trainer.config.alignment.num_word_microbatches)]
    return {**trainer.stage.take_metrics(), "batches": batches, "checkpoint": trainer.config.training.run_path}


def _huggingface_taps(folder: Path, token_ids: list[int], tied: bool) -> list[np.ndarray]:
    """Encode one word alone and average its hidden states at each tap."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = model(torch.tensor([token_ids]), output_hidden_states=True).hidden_states
    taps = [layer[0].mean(0).double().numpy() for layer in hidden]
    if not tied:
        taps.append(model.get_output_embeddings().weight[token_ids].detach().mean(0).double().numpy())
    return taps


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_tap_losses_equal_naive_reference(
    tied: bool, architecture: str, make_values: MakeValues, tmp_path: Path
) -> None:
    from tools.convert_checkpoint import main as convert

    values = make_values(
        "align_init",
        tmp_path / "run",
        model={
            "architecture": architecture,
            "num_layers": 2,
            "num_query_groups": 2 if architecture == "llama" else None,
            "untie_embeddings_and_output_weights": not tied,
        },
    )
    (result,) = run_distributed(_train_one_step, 1, values)
    assert convert(["to-hf", "--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "hf")]) == 0
    expected = np.mean([_naive_tap_losses(batch, tmp_path / "hf", tied) for batch in result["batches"]], axis=0)
    assert result["tap_loss"] == pytest.approx(expected.tolist(), rel=1e-5)


def _naive_tap_losses(batch: Any, folder: Path, tied: bool) -> list[float]:
    words = [ids[mask].tolist() for ids, mask in zip(batch.token_ids, batch.mask, strict=True)]
    taps = [_huggingface_taps(folder, ids, tied) for ids in words]
    excluded = {(int(i), int(k)) for i, k in batch.excluded_pairs}
    return [
        naive_loss(np.stack([word[tap] for word in taps]), batch.group_ids.tolist(), batch.valid.tolist(), excluded)
        for tap in range(len(taps[0]))
    ]
