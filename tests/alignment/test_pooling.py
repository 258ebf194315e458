"""Word vectors: the mean over a word's own subwords and nothing else."""

import pytest
import torch

from megatron_prealign.alignment import mean_pool

# Three words in two rows: word 1 before word 0, then word 2 and nothing behind it.
WORD_INDEX = torch.tensor([[1, 1, 0, 0], [2, -1, -1, -1]])


def _hidden() -> torch.Tensor:
    return torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0))


def test_mean_over_own_subwords() -> None:
    hidden = _hidden()
    pooled = mean_pool(hidden, WORD_INDEX, 3)
    torch.testing.assert_close(pooled[0], hidden[2:, 0].mean(0))
    torch.testing.assert_close(pooled[1], hidden[:2, 0].mean(0))
    torch.testing.assert_close(pooled[2], hidden[0, 1])


def test_positions_without_a_word_do_not_matter() -> None:
    hidden = _hidden().requires_grad_()
    expected = mean_pool(hidden, WORD_INDEX, 3)
    changed = hidden.detach().clone()
    changed[1:, 1] = 1e6
    torch.testing.assert_close(mean_pool(changed, WORD_INDEX, 3), expected)
    expected.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[1:, 1].abs().sum() == 0


def test_word_without_subwords_is_zero() -> None:
    pooled = mean_pool(_hidden(), WORD_INDEX, 5)
    assert pooled.shape == (5, 5)
    assert pooled[3:].abs().sum() == 0


def test_half_precision_is_pooled_in_fp32() -> None:
    hidden = torch.full((300, 1, 1), 1.0, dtype=torch.bfloat16)
    hidden[0] = 256.0
    pooled = mean_pool(hidden, torch.zeros(1, 300, dtype=torch.int64), 1)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.tensor([[555.0 / 300]]))


@pytest.mark.gpu
def test_a_gpu_pools_to_the_same_bits_every_time() -> None:
    drawn = torch.Generator(device="cuda").manual_seed(1)
    hidden = torch.randn(64, 128, 256, device="cuda", generator=drawn)
    # Words of thirty subwords, whose sums depend on the order of their terms.
    word_index = torch.randint(0, 256, (128, 64), device="cuda", generator=drawn)
    first = mean_pool(hidden, word_index, 256)
    assert all(torch.equal(mean_pool(hidden, word_index, 256), first) for _ in range(20))
