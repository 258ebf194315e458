"""Word vectors: the mean over a word's own subwords and nothing else."""

import torch

from megatron_prealign.alignment import mean_pool


def test_mean_over_own_subwords() -> None:
    hidden = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False, False], [True, True, True, True], [True, False, False, False]])
    pooled = mean_pool(hidden, mask)
    torch.testing.assert_close(pooled[0], hidden[:2, 0].mean(0))
    torch.testing.assert_close(pooled[1], hidden[:, 1].mean(0))
    torch.testing.assert_close(pooled[2], hidden[0, 2])


def test_padding_does_not_matter() -> None:
    hidden = torch.randn(4, 1, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False, False]])
    expected = mean_pool(hidden, mask)
    hidden[2:] = 1e6
    torch.testing.assert_close(mean_pool(hidden, mask), expected)


def test_word_without_subwords_is_zero() -> None:
    pooled = mean_pool(torch.ones(2, 1, 3), torch.zeros(1, 2, dtype=torch.bool))
    assert pooled.abs().sum() == 0


def test_half_precision_is_pooled_in_fp32() -> None:
    hidden = torch.full((300, 1, 1), 1.0, dtype=torch.bfloat16)
    hidden[0] = 256.0
    pooled = mean_pool(hidden, torch.ones(1, 300, dtype=torch.bool))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.tensor([[555.0 / 300]]))
