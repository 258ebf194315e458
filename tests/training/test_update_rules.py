"""Which AdamW and which kernels megatron-core is given; Muon against loops over whole matrices.

Broken once to see these fail: the polynomial's last coefficient; the norm taken over all matrices of a batch; no
look-ahead; matrices left to AdamW; the learning rate scaled by the smaller side; weight decay left out. That ranks join
their parts along the right side, cut out their own, and share the work is guarded by test_parallel.py.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core import optimizer, utils
from megatron.core.optimizer import clip_grads
from megatron.core.optimizer import optimizer as core_base

from megatron_prealign.errors import CheckpointError
from megatron_prealign.platform.mesh import Axis
from megatron_prealign.testing import run_distributed
from megatron_prealign.training import norms, update_rules


def test_a_cpu_gets_kernels_that_run_there_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_rules, "is_usable", lambda package: package == "transformer_engine")
    monkeypatch.setattr(optimizer, "Adam", "of Transformer Engine")
    monkeypatch.setattr(core_base, "get_grad_norm_fp32", "of megatron-core")
    monkeypatch.setattr(clip_grads, "multi_tensor_applier", "of Transformer Engine")
    monkeypatch.setattr(clip_grads, "multi_tensor_scale_tensor_impl", "of Transformer Engine", raising=False)
    update_rules.register(torch.device("cuda"))
    assert optimizer.Adam == clip_grads.multi_tensor_applier == "of Transformer Engine"
    update_rules.register(torch.device("cpu"))
    assert optimizer.Adam is update_rules.GroupStepAdamW
    norms.register(torch.device("cpu"))
    assert core_base.get_grad_norm_fp32.func is norms._global_norm
    assert clip_grads.multi_tensor_applier is utils.local_multi_tensor_applier
    assert clip_grads.multi_tensor_scale_tensor_impl is None


def _optimizer() -> update_rules.GroupStepAdamW:
    full, empty = torch.nn.Parameter(torch.zeros(4)), {"params": [], "weight_decay": 0.0}
    full.grad = torch.ones(4)
    return update_rules.GroupStepAdamW(
        [{"params": [full]}, empty], lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8
    )


def test_groups_say_all_that_other_adamws_read_from_them_and_count_together() -> None:
    optimizer = _optimizer()
    for _ in range(3):
        optimizer.step()
    # The second group's parameters are on other ranks, which load its count from this one.
    assert [group["step"] for group in optimizer.param_groups] == [3, 3]
    assert all(group["bias_correction"] is True for group in optimizer.param_groups)


def test_an_option_that_it_does_not_have_is_refused() -> None:
    state = _optimizer().state_dict()
    state["param_groups"][1]["bias_correction"] = False
    with pytest.raises(CheckpointError, match="saved with bias_correction off"):
        _optimizer().load_state_dict(state)


def _orthogonalized(matrix: torch.Tensor, num_iterations: int) -> torch.Tensor:
    """Apply Keller Jordan's polynomial to the singular values, in float64."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(num_iterations):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ values.diag() @ right


ALONE: Any = SimpleNamespace(rank=0, size=1)
SHAPES = [(8, 8), (24, 8), (8, 24)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_iterations", [1, 5])
def test_orthogonalization_is_the_polynomial_of_singular_values(shape: tuple[int, int], num_iterations: int) -> None:
    matrices = (
        torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 1e3])[:, None, None]
    )
    found = update_rules.orthogonalize(matrices, num_iterations)
    for matrix, result in zip(matrices, found, strict=True):
        torch.testing.assert_close(result.double(), _orthogonalized(matrix, num_iterations), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (192, 64), (64, 192)])
def test_singular_values_come_near_1_and_updates_get_the_size_of_adamws(shape: tuple[int, int]) -> None:
    draws = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(shape[0], 64, generator=draws))[0]
    right = torch.linalg.qr(torch.randn(shape[1], 64, generator=draws))[0]
    matrix = left @ torch.logspace(-1, 0, 64).diag() @ right.mT
    found = update_rules.orthogonalize(matrix[None], 5)[0]
    values = torch.linalg.svdvals(found)
    assert 0.65 < values.min() <= values.max() < 1.25
    size = found.square().mean().sqrt() * update_rules.adamw_scale(*shape)
    assert size == pytest.approx(0.2, rel=0.15)
    rows, columns = torch.randperm(shape[0], generator=draws), torch.randperm(shape[1], generator=draws)
    permuted = update_rules.orthogonalize(matrix[rows][:, columns][None], 5)[0]
    torch.testing.assert_close(permuted, found[rows][:, columns], rtol=0, atol=1e-5)


def test_zeros_stay_zeros() -> None:
    assert update_rules.orthogonalize(torch.zeros(2, 3, 4), 5).eq(0).all()


def test_muon_updates_the_chosen_matrices_and_adamw_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_rules, "_ORTHOGONALIZED", 2 * 8 * 24)  # three matrices of a shape are two batches
    draws = torch.Generator().manual_seed(0)
    shapes = [*SHAPES, (8, 24), (8, 24), (8,), (24, 8)]
    weights = [torch.nn.Parameter(torch.randn(*shape, generator=draws)) for shape in shapes]
    copies = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
    muon = update_rules.Muon(
        [{"params": weights}],
        matrices=weights[:5],
        momentum=0.95,
        num_iterations=5,
        dtype=torch.float32,
        tensor=ALONE,
        replicas=ALONE,
        **options,
    )
    others = update_rules.GroupStepAdamW([{"params": copies[5:]}], **options)
    wanted = [weight.detach().double() for weight in copies[:5]]
    averages = [torch.zeros_like(weight) for weight in wanted]
    for _ in range(4):
        for weight, copy in zip(weights, copies, strict=True):
            weight.grad = torch.randn(weight.shape, generator=draws)
            copy.grad = weight.grad.clone()
        muon.step()
        others.step()
        for number, weight in enumerate(weights[:5]):
            assert weight.grad is not None
            averages[number] = 0.95 * averages[number] + 0.05 * weight.grad
            update = _orthogonalized(0.95 * averages[number] + 0.05 * weight.grad, 5)
            step = 0.02 * 0.2 * max(weight.shape) ** 0.5
            wanted[number] = wanted[number] * (1 - 0.02 * 0.1) - step * update
    for weight, expected in zip(weights[:5], wanted, strict=True):
        assert muon.state[weight].keys() == {"exp_avg"}
        torch.testing.assert_close(weight.detach().double(), expected, rtol=0, atol=1e-5)
    for weight, copy in zip(weights[5:], copies[5:], strict=True):
        assert torch.equal(weight, copy)


def test_muon_takes_over_its_state_and_keeps_its_own_momentum() -> None:
    def build(momentum: float) -> tuple[torch.nn.Parameter, update_rules.Muon]:
        weight = torch.nn.Parameter(torch.eye(4))
        options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
        values: dict[str, Any] = {"matrices": [weight], "num_iterations": 5, "dtype": torch.float32}
        weight.grad = torch.arange(16.0).view(4, 4)
        return weight, update_rules.Muon(
            [{"params": [weight]}], momentum=momentum, tensor=ALONE, replicas=ALONE, **values, **options
        )

    weight, muon = build(0.5)
    muon.step()
    other, resumed = build(0.25)
    resumed.load_state_dict(muon.state_dict())
    other.data.copy_(weight)
    resumed.step()
    torch.testing.assert_close(resumed.state[other]["exp_avg"], (0.25 * 0.5 + 0.75) * torch.arange(16.0).view(4, 4))


def shared_updates(num_matrices: int, is_shared: bool) -> tuple[torch.Tensor, int]:
    """Return what a step makes of matrices, and the most matrices that were gathered or summed at once."""
    torch.distributed.init_process_group("gloo")
    gathered = [0]

    def noting(collective: Any) -> Any:
        def call(tensor: torch.Tensor, *more: Any, **options: Any) -> Any:
            gathered.append(len(tensor))
            return collective(tensor, *more, **options)

        return call

    torch.distributed.all_reduce = noting(torch.distributed.all_reduce)
    torch.distributed.all_gather_into_tensor = noting(torch.distributed.all_gather_into_tensor)
    draws = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(4, 6, generator=draws)) for _ in range(num_matrices)]
    for weight in weights:
        weight.grad = torch.randn(4, 6, generator=draws)
    replicas: Any = Axis(torch.distributed.group.WORLD) if is_shared else ALONE
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "momentum": 0.9}
    values: dict[str, Any] = {"matrices": weights, "num_iterations": 5, "dtype": torch.float32, "tensor": ALONE}
    update_rules.Muon([{"params": weights}], replicas=replicas, **values, **options).step()
    torch.distributed.destroy_process_group()
    return torch.stack([weight.detach() for weight in weights]), max(gathered)


@pytest.mark.parametrize("num_matrices", [1, 2, 4])
def test_replicas_share_the_work_and_hold_no_more_than_the_matrices(num_matrices: int) -> None:
    [(expected, _)] = run_distributed(shared_updates, 1, num_matrices, False)
    for found, num_gathered in run_distributed(shared_updates, 3, num_matrices, True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert num_gathered <= (num_matrices if num_matrices < 3 else 6)  # of four matrices, two a rank
