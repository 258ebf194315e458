"""The redirection to the CPU: complete where megatron-core needs it, gone after uninstall, never beside a GPU."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from megatron_prealign.errors import ConfigError
from megatron_prealign.platform import cpu, select_platform


@contextlib.contextmanager
def redirected() -> Iterator[None]:
    """Redirect inside the context only."""
    cpu.uninstall()
    cpu.install()
    try:
        yield
    finally:
        cpu.uninstall()


def test_redirects_what_megatron_core_asks_for() -> None:
    with redirected():
        assert torch.zeros(2, device="cuda").device.type == "cpu"
        assert torch.tensor([1.0], device=torch.cuda.current_device()).device.type == "cpu"
        assert torch.ones(2).cuda().device.type == "cpu"
        # Gradient clipping accepts no other name.
        assert torch.ones(2).type() == "torch.cuda.FloatTensor"
        assert torch.ones(2, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
        assert torch.ones(2).type(torch.float64).dtype == torch.float64
        torch.cuda.synchronize()


def test_nothing_is_left_behind() -> None:
    cpu.uninstall()
    before = torch.cuda.current_device
    with redirected():
        assert torch.cuda.current_device is not before
    assert torch.cuda.current_device is before
    assert torch.ones(2).type() == "torch.FloatTensor"


def test_random_states_fork_and_continue() -> None:
    from megatron.core import tensor_parallel
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    with redirected():
        tensor_parallel.model_parallel_cuda_manual_seed(7, tp_rank=0, ep_rank=0, etp_rank=0)
        tracker = get_cuda_rng_tracker()
        outside = torch.get_rng_state()
        with tracker.fork():
            first = torch.rand(3)
            with tracker.fork():
                inner = torch.rand(3)
            second = torch.rand(3)
        assert torch.equal(torch.get_rng_state(), outside)
        tensor_parallel.model_parallel_cuda_manual_seed(7, tp_rank=0, ep_rank=0, etp_rank=0)
        with tracker.fork():
            stream = torch.rand(9)
    assert torch.equal(stream, torch.cat([first, inner, second]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU machine cuda is a platform, not an error")
def test_cuda_without_a_gpu_is_refused_with_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"--training\.device cpu"):
        select_platform("cuda")
    assert select_platform("auto").backend == "gloo"
