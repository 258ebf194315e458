"""Which AdamW and which kernels megatron-core is given."""

import pytest
import torch
from megatron.core import optimizer, utils
from megatron.core.optimizer import clip_grads

from megatron_prealign.training import adamw


def test_a_cpu_gets_kernels_that_run_there_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw, "has_transformer_engine", lambda: True)
    monkeypatch.setattr(optimizer, "Adam", "of Transformer Engine")
    monkeypatch.setattr(clip_grads, "l2_norm_impl", "of Transformer Engine")
    monkeypatch.setattr(clip_grads, "multi_tensor_applier", "of Transformer Engine")
    adamw.register(torch.device("cuda"))
    assert optimizer.Adam == clip_grads.l2_norm_impl == "of Transformer Engine"
    adamw.register(torch.device("cpu"))
    assert optimizer.Adam is adamw.GroupStepAdamW
    assert clip_grads.l2_norm_impl is utils.local_multi_tensor_l2_norm
    assert clip_grads.multi_tensor_applier is utils.local_multi_tensor_applier
