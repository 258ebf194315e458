"""Stage 1's word pass in float64 equals a double loop over Hugging Face's forward pass, and finite differences.

In float64 nothing hides behind rounding: a term that is missing or counted twice shows, however small.

Broken once to see these fail: pooling that counts padding in; a word as its own negative; the embedding's tap left
out; the weight of a microbatch not divided by their number; words of a row that see each other.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_prealign.testing import run_distributed
from tests.alignment.reference import (
    assert_same_gradients,
    naive_alignment,
    reference_model,
    taps_of_word,
    words_of,
)
from tests.workspace import MakeValues

TOLERANCE = 1e-6
STEP = 1e-5
ALIGNMENT: dict[str, dict[str, Any]] = {
    "word": {"num_hard_negatives": 1},
    "sentence": {"lexicon_paths": [], "sentence_batch_size": 6, "num_sentence_microbatches": 2},
}


def _item_pass(values: Any, kind: str) -> dict[str, Any]:
    """Save the initial model, run one pass over it in float64, and compare directions with finite differences."""
    from megatron_prealign.alignment import Taps
    from megatron_prealign.model import build_model_chunks
    from megatron_prealign.model.parameters import named_global_parameters
    from megatron_prealign.platform import Mesh
    from megatron_prealign.testing.trainers import make_trainer
    from megatron_prealign.training.objectives.alignment import Alignment
    from megatron_prealign.training.objectives.objective import Surroundings
    from megatron_prealign.training.setup import plan_run
    from megatron_prealign.training.state import TrainState
    from megatron_prealign.training.throughput import Stopwatch

    trainer = make_trainer(values)
    trainer.save()
    items = plan_run(trainer.config).items[kind]
    # The same initial weights, without the fp32 gradient buffers.
    model = build_model_chunks(trainer.config, trainer.platform.device)[0].double()
    surroundings = Surroundings([model], trainer.platform.device, Mesh.current(), lambda: Taps([model]), Stopwatch())
    alignment = Alignment(trainer.config, items, surroundings)

    def evaluate() -> dict[str, Any]:
        model.zero_grad()
        (one_pass,) = alignment.make_passes(TrainState(), 1.0)
        one_pass.run([model])
        return alignment.take_metrics()

    prefix = "" if kind == "word" else f"{kind}_"
    metrics = evaluate()
    named = list(named_global_parameters(model))
    gradients = {name: parameter.grad.clone() for name, parameter in named}
    # One direction a parameter, and one through all of them.
    generator = torch.Generator().manual_seed(0)
    directions = {name: torch.randn(g.shape, generator=generator, dtype=torch.float64) for name, g in gradients.items()}
    slopes = {}
    for label, moved in [("all", list(gradients)), *((name, [name]) for name in gradients)]:
        values_around = []
        for sign in (1, -1, 0):
            with torch.no_grad():
                for name, parameter in named:
                    if name in moved:
                        # From +1 to -1 it is two steps back, from -1 to 0 one forward.
                        parameter += {1: 1, -1: -2, 0: 1}[sign] * STEP * directions[name]
            if sign:
                values_around.append(evaluate()[f"{prefix}alignment_loss"])
        expected = sum(float((gradients[name] * directions[name]).sum()) for name in moved)
        slopes[label] = ((values_around[0] - values_around[1]) / (2 * STEP), expected)
    words = [items.batch(index) for index in range(2)]
    return {
        "tap_loss": metrics[f"{prefix}tap_loss"],
        "gradients": gradients,
        "slopes": slopes,
        "config": trainer.config,
        "words": words,
    }


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("architecture", "kind"), [("llama", "word"), ("gpt_neox", "word"), ("llama", "sentence")])
def test_item_pass_equals_double_loop_and_finite_differences(
    tied: bool, architecture: str, kind: str, make_values: MakeValues, tmp_path: Path
) -> None:
    model = {"num_layers": 2, "architecture": architecture, "untie_embeddings_and_output_weights": not tied}
    model["num_query_groups"] = 2 if architecture == "llama" else None
    # Weights far from zero, so that no gradient is small by accident.
    model["init_method_std"] = 0.2
    values = make_values("align_init", tmp_path / "run", model=model, alignment=ALIGNMENT[kind])
    (result,) = run_distributed(_item_pass, 1, values, kind)
    for label, (slope, expected) in result["slopes"].items():
        assert slope == pytest.approx(expected, rel=TOLERANCE, abs=1e-9), label

    reference = reference_model(tmp_path)
    losses: list[Tensor] = []
    for batch in result["words"]:
        losses.append(naive_alignment([taps_of_word(reference, word, tied) for word in words_of(batch)], batch))
    tap_loss = torch.stack(losses).mean(0)
    assert list(result["tap_loss"].values()) == pytest.approx(tap_loss.tolist(), rel=TOLERANCE)
    tap_loss.mean().backward()
    assert_same_gradients(reference, result["gradients"], result["config"], TOLERANCE)
