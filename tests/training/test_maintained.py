"""Alignment maintained in stage 2: steps with words are steps of stage 1, those between are plain, weights decay.

Broken once to see these fail: the weight without its decay; the interval counted from the run's first step in this
process; the word pass after the other, which alone reduces; word tokens left out of the tokens seen.
"""

from pathlib import Path
from typing import Any

import torch

from megatron_prealign.testing import run_distributed
from tests.workspace import MakeValues

NUM_STEPS = 6


def _first_gradients(values: Any, step: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the gradients of the fresh weights as if `step` steps had been taken, and the records of the losses."""
    from megatron_prealign.testing.trainers import full_gradients, make_trainer

    trainer = make_trainer(values)
    trainer.state.step = step
    trainer.compute_gradients()
    tokens = {"tokens": trainer.state.tokens, "word_tokens": trainer.state.word_tokens}
    return full_gradients(trainer.chunks), {**trainer.stage.take_metrics(), **tokens}


def _all_first_gradients(cases: list[tuple[Any, int]]) -> list[tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    return [_first_gradients(values, step) for values, step in cases]


MAINTAINED = {"maintain_interval": 3, "maintain_weight": 0.8}
# Stage, settings of the alignment, steps before; the case that gives the same step.
CASES: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "first": ("pretrain", MAINTAINED, 0, "weight 0.8"),
    "in between": ("pretrain", MAINTAINED, 2, "plain"),
    "constant": ("pretrain", MAINTAINED, 3, "weight 0.8"),
    "linear": ("pretrain", {**MAINTAINED, "maintain_decay": "linear"}, 3, "weight 0.4"),
    # Half a cosine wave is at 3/4 after a third of the way.
    "cosine": ("pretrain", {**MAINTAINED, "maintain_interval": 2, "maintain_decay": "cosine"}, 2, "weight 0.6"),
    "weight 0.8": ("align_init", {"alignment_weight": 0.8}, 0, ""),
    "weight 0.6": ("align_init", {"alignment_weight": 0.6}, 0, ""),
    "weight 0.4": ("align_init", {"alignment_weight": 0.4}, 0, ""),
    "plain": ("pretrain", {}, 0, ""),
}


def test_a_step_with_words_is_a_step_of_stage_1_and_others_are_plain(make_values: MakeValues, tmp_path: Path) -> None:
    cases = []
    for name, (stage, alignment, step, _) in CASES.items():
        training = {"train_steps": NUM_STEPS}
        cases.append((make_values(stage, tmp_path / name, alignment=alignment, training=training), step))
    results = dict(zip(CASES, run_distributed(_all_first_gradients, 1, cases)[0], strict=True))
    for name, (_, _, _, expected) in CASES.items():
        if not expected:
            continue
        (gradients, metrics), (wanted, wanted_metrics) = results[name], results[expected]
        assert metrics == wanted_metrics, name
        for parameter, gradient in wanted.items():
            torch.testing.assert_close(gradients[parameter], gradient, rtol=1e-5, atol=1e-7)
    aligned, plain = results["first"][1], results["in between"][1]
    assert aligned["alignment_loss"] > 0
    assert "alignment_loss" not in plain
    assert (plain["tokens"], plain["word_tokens"]) == (4 * 32, 0)
    assert aligned["tokens"] == 4 * 32 + aligned["word_tokens"] > 4 * 32
    # Not equal by being blind: the weights matter.
    difference = results["weight 0.4"][0]["embedding.word_embeddings.weight"]
    assert not torch.allclose(difference, results["weight 0.8"][0]["embedding.word_embeddings.weight"], rtol=1e-2)
