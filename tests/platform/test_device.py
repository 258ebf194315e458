"""Which GPU a process takes."""

import pytest
import torch

from megatron_prealign.errors import ConfigError
from megatron_prealign.platform import select_platform


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One GPU is visible, and torchrun did not start this process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return monkeypatch


def test_a_task_of_slurm_uses_the_one_gpu_that_it_sees(visible: pytest.MonkeyPatch) -> None:
    assert select_platform("auto", local_rank=3).device == torch.device("cuda", 0)


def test_processes_of_torchrun_do_not_share_a_gpu(visible: pytest.MonkeyPatch) -> None:
    visible.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="local rank 3 needs GPU number 3, but 1 are visible"):
        select_platform("auto", local_rank=3)
