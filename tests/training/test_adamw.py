"""Which AdamW and which kernels megatron-core is given."""

import pytest
import torch
from megatron.core import optimizer, utils
from megatron.core.optimizer import clip_grads
from megatron.core.optimizer import optimizer as core_base

from megatron_prealign.errors import CheckpointError
from megatron_prealign.training import adamw, norms


def test_a_cpu_gets_kernels_that_run_there_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw, "is_usable", lambda package: package == "transformer_engine")
    monkeypatch.setattr(optimizer, "Adam", "of Transformer Engine")
    monkeypatch.setattr(core_base, "get_grad_norm_fp32", "of megatron-core")
    monkeypatch.setattr(clip_grads, "multi_tensor_applier", "of Transformer Engine")
    monkeypatch.setattr(clip_grads, "multi_tensor_scale_tensor_impl", "of Transformer Engine", raising=False)
    adamw.register(torch.device("cuda"))
    assert optimizer.Adam == clip_grads.multi_tensor_applier == "of Transformer Engine"
    adamw.register(torch.device("cpu"))
    assert optimizer.Adam is adamw.GroupStepAdamW
    norms.register(torch.device("cpu"))
    assert core_base.get_grad_norm_fp32.func is norms._global_norm
    assert clip_grads.multi_tensor_applier is utils.local_multi_tensor_applier
    assert clip_grads.multi_tensor_scale_tensor_impl is None


def _optimizer() -> adamw.GroupStepAdamW:
    full, empty = torch.nn.Parameter(torch.zeros(4)), {"params": [], "weight_decay": 0.0}
    full.grad = torch.ones(4)
    return adamw.GroupStepAdamW([{"params": [full]}, empty], lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8)


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
