"""The contrastive loss against a double loop in float64, and what must not change it.

Broken once to see these fail: a word as its own negative, a pull by its own row of similarities alone (the
gather without gradient), exclusion in one direction, the positives' share counted once, padding among the
negatives, the number of anchors of this rank in place of the batch's.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_prealign.alignment import ContrastiveTargets, contrastive_loss

TEMPERATURE = 0.1


def naive_loss(words: np.ndarray, groups: list[int], excluded: set[tuple[int, int]], temperature: float) -> float:
    """design.md's formula, term by term."""
    unit = words / np.linalg.norm(words, axis=1, keepdims=True)
    real = [i for i in range(len(words)) if groups[i] >= 0]
    total, anchors = 0.0, 0
    for i in real:
        positives = [j for j in real if j != i and groups[j] == groups[i]]
        if not positives:
            continue
        anchors += 1
        others = [k for k in real if k != i and (i, k) not in excluded]
        denominator = sum(math.exp(unit[i] @ unit[k] / temperature) for k in others)
        terms = [math.log(math.exp(unit[i] @ unit[j] / temperature) / denominator) for j in positives]
        total -= sum(terms) / len(positives)
    return total / anchors if anchors else 0.0


def make_targets(
    groups: list[int], excluded: set[tuple[int, int]], start: int = 0, stop: int | None = None
) -> ContrastiveTargets:
    pairs = torch.tensor(sorted(excluded), dtype=torch.int64).reshape(-1, 2)
    return ContrastiveTargets.build(torch.tensor(groups), pairs, start, len(groups) if stop is None else stop)


def loss_of_ranks(
    words: torch.Tensor, groups: list[int], excluded: set[tuple[int, int]], borders: list[int], memory_bytes: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return each rank's value and the gradients of all ranks' own words, joined; `gather` knows all ranks' words."""
    unit = torch.nn.functional.normalize(words, dim=1)
    whole = make_targets(groups, excluded)
    real = unit[: whole.num_items]
    similarities = (real @ real.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    for i, k in excluded:
        similarities[i, k] = -torch.inf
    normalisers = torch.full((len(words),), torch.inf, dtype=words.dtype)
    normalisers[: len(real)] = similarities.logsumexp(1)
    normalisers[whole.num_positives == 0] = torch.inf

    def gather(tensor: torch.Tensor, all_normalisers: torch.Tensor) -> torch.Tensor:
        return unit.detach() if tensor.ndim == 2 else all_normalisers

    values, gradients = [], []
    for start, stop in pairwise(borders):
        own = words[start:stop].clone().requires_grad_()
        targets = make_targets(groups, excluded, start, stop)
        share = partial(gather, all_normalisers=normalisers)
        value = contrastive_loss(own, targets, TEMPERATURE, memory_bytes=memory_bytes, gather=share)
        value.backward()
        values.append(value.detach())
        assert own.grad is not None
        gradients.append(own.grad)
    return values, torch.cat(gradients)


# Groups of one (no positive), two and three words; padding at the end; false negatives in both directions.
GROUPS = [0, 0, 1, 1, 1, 2, 3, 3, -1, -1]
EXCLUDED = {(0, 2), (2, 0), (1, 7), (7, 1), (5, 6), (6, 5)}
ROW_BYTES = 8 * 8
"""What one row of the similarities of GROUPS needs."""


@pytest.fixture
def words() -> torch.Tensor:
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("memory_bytes", [1, 3 * ROW_BYTES, 2**29])
@pytest.mark.parametrize("excluded", [set(), EXCLUDED], ids=["no-exclusion", "exclusion"])
def test_equals_double_loop(words: torch.Tensor, memory_bytes: int, excluded: set[tuple[int, int]]) -> None:
    expected = naive_loss(words.numpy(), GROUPS, excluded, TEMPERATURE)
    targets = make_targets(GROUPS, excluded)
    assert float(contrastive_loss(words, targets, TEMPERATURE, memory_bytes=memory_bytes)) == pytest.approx(expected)
    single = contrastive_loss(words.float(), targets, TEMPERATURE, memory_bytes=memory_bytes)
    assert float(single) == pytest.approx(expected, rel=1e-6)


@given(st.data())
def test_random_batches_equal_double_loop_and_finite_differences(data: st.DataObject) -> None:
    groups = sorted(data.draw(st.lists(st.integers(0, 4), min_size=2, max_size=9)))
    count = len(groups)
    groups += [-1] * data.draw(st.integers(0, 2))
    pairs = data.draw(st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=6))
    excluded = {pair for i, k in pairs if groups[i] != groups[k] for pair in ((i, k), (k, i))}
    numbers = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(len(groups), 3))
    leaf = torch.from_numpy(numbers).requires_grad_()
    memory_bytes = data.draw(st.sampled_from([1, 2**29]))
    loss = contrastive_loss(leaf, make_targets(groups, excluded), 0.3, memory_bytes=memory_bytes)
    assert float(loss.detach()) == pytest.approx(naive_loss(numbers, groups, excluded, 0.3), abs=1e-12)
    loss.backward()
    assert leaf.grad is not None
    for index in np.ndindex(numbers.shape):
        step = np.zeros_like(numbers)
        step[index] = 1e-6
        rise = naive_loss(numbers + step, groups, excluded, 0.3) - naive_loss(numbers - step, groups, excluded, 0.3)
        assert float(leaf.grad[index]) == pytest.approx(rise / 2e-6, abs=1e-7)


@pytest.mark.parametrize("borders", [[0, 5, 10], [0, 2, 4, 6, 8, 10]], ids=["2-ranks", "5-ranks"])
@pytest.mark.parametrize("memory_bytes", [1, 2**29])
def test_ranks_add_up_to_the_whole(words: torch.Tensor, borders: list[int], memory_bytes: int) -> None:
    leaf = words.clone().requires_grad_()
    whole = contrastive_loss(leaf, make_targets(GROUPS, EXCLUDED), TEMPERATURE)
    whole.backward()
    values, gradient = loss_of_ranks(words, GROUPS, EXCLUDED, borders, memory_bytes)
    assert float(sum(values)) == pytest.approx(float(whole))
    torch.testing.assert_close(gradient, leaf.grad)


@pytest.mark.parametrize("temperature", [0.005, 0.1, 10.0])
def test_any_temperature_is_finite(words: torch.Tensor, temperature: float) -> None:
    leaf = words.float().requires_grad_()
    # Two opposite words of one group: the hardest case for exponentials.
    with torch.no_grad():
        leaf[1] = -leaf[0]
    contrastive_loss(leaf, make_targets(GROUPS, set()), temperature).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_padding_and_excluded_words_get_no_gradient(words: torch.Tensor) -> None:
    leaf = words.clone().requires_grad_()
    # Word 5 has no positive and is excluded for all others: nothing may pull at it.
    excluded = {pair for k in range(8) if k != 5 for pair in ((5, k), (k, 5))}
    contrastive_loss(leaf, make_targets(GROUPS, excluded), TEMPERATURE).backward()
    assert leaf.grad is not None
    assert leaf.grad[5].abs().sum() == 0
    assert leaf.grad[8:].abs().sum() == 0
    assert leaf.grad[0].abs().sum() > 0


def test_half_precision_is_computed_in_fp32(words: torch.Tensor) -> None:
    rounded = words.bfloat16().requires_grad_()
    loss = contrastive_loss(rounded, make_targets(GROUPS, EXCLUDED), TEMPERATURE)
    assert loss.dtype == torch.float32
    expected = naive_loss(rounded.detach().double().numpy(), GROUPS, EXCLUDED, TEMPERATURE)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert rounded.grad is not None
    assert rounded.grad.dtype == torch.bfloat16


def test_batch_without_positives_has_no_loss(words: torch.Tensor) -> None:
    leaf = words.clone().requires_grad_()
    loss = contrastive_loss(leaf, make_targets(list(range(10)), set()), TEMPERATURE)
    loss.backward()
    assert float(loss) == 0.0
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() == 0


def test_targets_list_what_belongs_to_a_rank() -> None:
    targets = make_targets(GROUPS, EXCLUDED, 2, 6)
    assert (targets.num_items, targets.num_anchors) == (8, 7)
    assert targets.num_positives.tolist() == [2, 2, 2, 0]
    rows, columns = targets.positives.cut(3, 6)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 2), (0, 4), (1, 2), (1, 3)]
    rows, columns = targets.left_out.cut(2, 6)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(0, 0), (0, 2), (1, 3), (2, 4), (3, 5), (3, 6)}
