"""The contrastive loss against a double loop in float64, and what must not change it."""

import math

import numpy as np
import pytest
import torch

from megatron_prealign.alignment import ContrastiveTargets, contrastive_loss

TEMPERATURE = 0.1


def naive_loss(words: np.ndarray, groups: list[int], valid: list[bool], excluded: set[tuple[int, int]]) -> float:
    """design.md's formula, term by term."""
    unit = words / np.linalg.norm(words, axis=1, keepdims=True)
    total, anchors = 0.0, 0
    for i in range(len(words)):
        positives = [j for j in range(len(words)) if j != i and valid[i] and valid[j] and groups[j] == groups[i]]
        if not positives:
            continue
        anchors += 1
        others = [k for k in range(len(words)) if k != i and valid[k] and (i, k) not in excluded]
        denominator = sum(math.exp(unit[i] @ unit[k] / TEMPERATURE) for k in others)
        terms = [math.log(math.exp(unit[i] @ unit[j] / TEMPERATURE) / denominator) for j in positives]
        total -= sum(terms) / len(positives)
    return total / anchors


def _targets(
    groups: list[int], valid: list[bool], excluded: set[tuple[int, int]], start: int = 0, stop: int | None = None
) -> ContrastiveTargets:
    return ContrastiveTargets(
        groups=torch.tensor(groups),
        valid=torch.tensor(valid),
        excluded=torch.tensor(sorted(excluded), dtype=torch.int64).reshape(-1, 2),
        start=start,
        stop=len(groups) if stop is None else stop,
    )


# Groups of one (no positive), two and three words; padding at the end; false negatives in both directions.
GROUPS = [0, 0, 1, 1, 1, 2, 3, 3, -1, -1]
VALID = [True] * 8 + [False] * 2
EXCLUDED = {(0, 2), (2, 0), (1, 7), (7, 1), (5, 6), (6, 5)}


@pytest.fixture
def words() -> torch.Tensor:
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


@pytest.mark.parametrize("chunk_rows", [None, 3, 100])
@pytest.mark.parametrize("excluded", [set(), EXCLUDED], ids=["no-exclusion", "exclusion"])
def test_equals_double_loop(words: torch.Tensor, chunk_rows: int | None, excluded: set[tuple[int, int]]) -> None:
    loss = contrastive_loss(words, _targets(GROUPS, VALID, excluded), TEMPERATURE, chunk_rows)
    assert float(loss) == pytest.approx(naive_loss(words.double().numpy(), GROUPS, VALID, excluded), rel=1e-5)


def test_ranks_add_up_to_the_whole(words: torch.Tensor) -> None:
    whole = contrastive_loss(words, _targets(GROUPS, VALID, EXCLUDED), TEMPERATURE)
    ranks = [_targets(GROUPS, VALID, EXCLUDED, *part) for part in ((0, 5), (5, 10))]
    parts = [contrastive_loss(words, targets, TEMPERATURE) for targets in ranks]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_chunks_give_the_same_gradient(words: torch.Tensor) -> None:
    gradients = []
    for chunk_rows in (None, 3):
        leaf = words.clone().requires_grad_()
        contrastive_loss(leaf, _targets(GROUPS, VALID, EXCLUDED), TEMPERATURE, chunk_rows).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_padding_and_excluded_words_get_no_gradient(words: torch.Tensor) -> None:
    leaf = words.clone().requires_grad_()
    # Word 5 has no positive and is excluded for all others: nothing may pull at it.
    excluded = {pair for k in range(8) if k != 5 for pair in ((5, k), (k, 5))}
    contrastive_loss(leaf, _targets(GROUPS, VALID, excluded), TEMPERATURE).backward()
    assert leaf.grad is not None
    assert leaf.grad[5].abs().sum() == 0
    assert leaf.grad[8:].abs().sum() == 0
    assert leaf.grad[0].abs().sum() > 0


def test_gradient_equals_finite_differences(words: torch.Tensor) -> None:
    targets = _targets(GROUPS, VALID, EXCLUDED)
    leaf = words.clone().requires_grad_()
    contrastive_loss(leaf, targets, TEMPERATURE).backward()
    assert leaf.grad is not None
    numbers = words.double().numpy()
    for index in ((0, 0), (3, 2), (6, 5)):
        step = np.zeros_like(numbers)
        step[index] = 1e-6
        ahead = naive_loss(numbers + step, GROUPS, VALID, EXCLUDED)
        behind = naive_loss(numbers - step, GROUPS, VALID, EXCLUDED)
        assert float(leaf.grad[index]) == pytest.approx((ahead - behind) / 2e-6, rel=1e-3)


def test_batch_without_positives_has_no_loss(words: torch.Tensor) -> None:
    targets = _targets(list(range(10)), [True] * 10, set())
    assert float(contrastive_loss(words, targets, TEMPERATURE)) == 0.0
