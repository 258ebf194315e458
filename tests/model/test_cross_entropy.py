"""The loss over a split vocabulary: equal to a naive one in float64, to megatron-core's bit for bit, and lean."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from megatron.core import tensor_parallel

from megatron_prealign.config import ParallelConfig
from megatron_prealign.model import cross_entropy
from megatron_prealign.model.cross_entropy import vocab_parallel_cross_entropy
from megatron_prealign.platform import (
    Mesh,
    cpu,
    initialize_distributed,
    initialize_model_parallel,
    select_platform,
    shut_down_distributed,
)
from megatron_prealign.testing import run_distributed

# Of 256 rows 200 are tokens; of three ranks the last has padding alone.
SEQUENCE, BATCH, TOKENS = 40, 3, 200
Z_LOSS = 0.3


def _case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits of all rows, labels, and the weight of each position, some zero."""
    generator = torch.Generator().manual_seed(3)
    logits = (4 * torch.randn(SEQUENCE, BATCH, 384, generator=generator)).to(dtype)
    labels = torch.randint(0, TOKENS, (SEQUENCE, BATCH), generator=generator)
    return logits, labels, torch.rand(SEQUENCE, BATCH, generator=generator).round(decimals=1)


def _on_rank(tensor_parallel_size: int, z_loss_weight: float) -> dict[str, Any]:
    platform = select_platform("cpu")
    initialize_distributed(platform)
    mesh = initialize_model_parallel(ParallelConfig(tensor_model_parallel_size=tensor_parallel_size), seed=1)
    cross_entropy._BLOCK_ON_CPU = 1 << 11  # several blocks, of unequal sizes
    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        logits, labels, weights = _case(dtype)
        own = logits.chunk(mesh.tensor.size, dim=-1)[mesh.tensor.rank].contiguous().requires_grad_()
        # A copy, as the backward pass writes over it.
        losses = vocab_parallel_cross_entropy(own.clone(), labels, TOKENS, mesh.tensor.group, z_loss_weight)
        (losses * weights).sum().backward()
        result[str(dtype)] = (losses.detach(), own.grad)
    return result


@pytest.mark.parametrize("z_loss_weight", [0.0, Z_LOSS])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_losses_and_gradients_equal_a_naive_reference(size: int, z_loss_weight: float) -> None:
    ranks = run_distributed(_on_rank, size, size, z_loss_weight)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 4e-3)):
        logits, labels, weights = _case(dtype)
        exact = logits.double().requires_grad_()
        real = exact[..., :TOKENS]
        expected = torch.nn.functional.cross_entropy(real.flatten(0, 1), labels.flatten(), reduction="none")
        z_loss = real.logsumexp(-1).flatten() ** 2
        ((expected + z_loss_weight * z_loss) * weights.flatten()).sum().backward()
        for losses, _ in (rank[str(dtype)] for rank in ranks):
            torch.testing.assert_close(losses.double(), expected.detach().view_as(losses), rtol=2e-6, atol=2e-6)
        gradient = torch.cat([rank[str(dtype)][1] for rank in ranks], dim=-1).double()
        assert exact.grad is not None
        torch.testing.assert_close(gradient, exact.grad, rtol=tolerance, atol=tolerance)
        assert not gradient[..., TOKENS:].any()


@pytest.fixture
def _one_rank() -> Iterator[Mesh]:
    initialize_distributed(select_platform("cpu"))
    yield initialize_model_parallel(ParallelConfig(), seed=1)
    shut_down_distributed()
    cpu.uninstall()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_megatron_cores_loss_bit_for_bit(
    dtype: torch.dtype, _one_rank: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "_BLOCK_ON_CPU", 1 << 11)
    results = []
    for ours in (True, False):
        logits, labels, weights = _case(dtype)
        logits.requires_grad_()
        if ours:
            losses = vocab_parallel_cross_entropy(logits.clone(), labels, TOKENS, _one_rank.tensor.group)
        else:
            masked = logits.clone()
            masked[..., TOKENS:] = torch.finfo(dtype).min
            losses = tensor_parallel.vocab_parallel_cross_entropy(masked, labels)
        (losses * weights).sum().backward()
        results.append((losses, logits.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_only_the_logits_are_kept_and_become_the_gradient(_one_rank: Mesh) -> None:
    logits, labels, weights = _case(torch.bfloat16)
    source = logits.requires_grad_()
    output = source * 1.0
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        losses = vocab_parallel_cross_entropy(output, labels, TOKENS, _one_rank.tensor.group)
    large = [tensor for tensor in kept if tensor.numel() > 10 * labels.numel()]
    assert [tensor.data_ptr() for tensor in large] == [output.data_ptr()]
    (losses * weights).sum().backward()
    assert source.grad is not None
    assert source.grad.data_ptr() != output.data_ptr()  # of the multiplication by one
    torch.testing.assert_close(source.grad, output.detach())
