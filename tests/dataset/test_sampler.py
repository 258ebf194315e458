"""The global order of samples, resuming, and padding of the last step."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import chain
from multiprocessing.connection import wait

import numpy as np
import psutil
import pytest
import torch

from megatron_prealign.dataset.sampler import Batch, StepLoader, step_indices
from megatron_prealign.errors import ConfigError, TrainingError


class Numbers:
    """Samples whose tokens are their own position in the order."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        if not 0 <= idx < self.length:
            raise IndexError(idx)
        tokens = torch.full((3,), idx)
        fixed = {"loss_mask": torch.ones(3), "position_ids": torch.arange(3), "loss_group": torch.zeros(3)}
        return {"tokens": tokens, "labels": tokens, **fixed}


class Unfit(Numbers):
    """Holds what can't be trained on."""

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        raise TrainingError(f"sample {idx} is unfit")


class Damaged(Numbers):
    """Announces twice the samples that can be read."""

    def __len__(self) -> int:
        return 2 * self.length


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def positions(steps: Iterable[list[Batch]]) -> list[list[list[int]]]:
    return [[batch["tokens"][:, 0].tolist() for batch in step] for step in steps]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_ranks_together_cover_the_step_in_order(size: int, micro_batch_size: int) -> None:
    consumed, num_microbatches = 35, 12 // size
    shares = [
        step_indices(
            consumed,
            micro_batch_size=micro_batch_size,
            num_microbatches=num_microbatches,
            data_parallel_rank=rank,
            data_parallel_size=size,
        )
        for rank in range(size)
    ]
    together = np.stack(shares, axis=1).reshape(-1)
    assert together.tolist() == list(range(consumed, consumed + 12 * micro_batch_size))


@pytest.mark.parametrize("prefetch", [False, True])
def test_every_layout_sees_the_same_global_batches(prefetch: bool) -> None:
    expected = [list(range(start, start + 8)) for start in range(0, 40, 8)]
    for size, micro_batch_size in ((1, 8), (1, 2), (2, 2), (4, 1), (4, 2)):
        loaders = [
            StepLoader(
                Numbers(45),
                micro_batch_size=micro_batch_size,
                global_batch_size=8,
                data_parallel_rank=rank,
                data_parallel_size=size,
                prefetch=prefetch,
            )
            for rank in range(size)
        ]
        steps = list(zip(*(positions(loader) for loader in loaders), strict=True))
        assert [sorted(chain.from_iterable(chain.from_iterable(step))) for step in steps] == expected
        assert all(batch["tokens"].shape == (micro_batch_size, 3) for batch in loaders[0]._read(0))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_resuming_gives_the_same_batches(num_workers: int) -> None:
    options = {"micro_batch_size": 2, "global_batch_size": 8, "data_parallel_rank": 1, "data_parallel_size": 2}
    options["num_workers"] = num_workers
    loader = StepLoader(Numbers(100), **options)
    for _ in range(3):
        next(loader)
    consumed = loader.consumed_samples
    assert consumed == 24
    rest = positions(loader)
    assert rest == positions(StepLoader(Numbers(100), consumed_samples=consumed, **options))
    assert rest[0] == [[26, 27], [30, 31]]


def test_steps_that_grow() -> None:
    def size_at(consumed: int) -> int:
        return 4 if consumed < 8 else 8

    options = {"micro_batch_size": 2, "global_batch_size": 8, "batch_size_at": size_at}
    steps = positions(StepLoader(Numbers(27), **options))
    assert steps == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8, 9], [10, 11], [12, 13], [14, 15]],
        [[16, 17], [18, 19], [20, 21], [22, 23]],
    ]
    assert steps[1:] == positions(StepLoader(Numbers(27), consumed_samples=4, **options))
    # A last step that is still small fits.
    assert len(positions(StepLoader(Numbers(5), **options))) == 1


def test_last_partial_step_is_left_out_or_padded() -> None:
    options = {"micro_batch_size": 2, "global_batch_size": 4}
    assert len(list(StepLoader(Numbers(10), **options))) == 2
    padded = list(StepLoader(Numbers(10), pad_end=True, **options))
    assert len(padded) == 3
    assert [batch["loss_mask"].sum().item() for batch in padded[2]] == [6, 0]
    assert sum(batch["loss_mask"].sum().item() for step in padded for batch in step) == 10 * 3
    assert len(list(StepLoader(Numbers(8), pad_end=True, **options))) == 2
    assert list(StepLoader(Numbers(3), **options)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_leaves_the_random_states_alone(num_workers: int) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(StepLoader(Numbers(20), micro_batch_size=2, global_batch_size=4, num_workers=num_workers))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())


class TestWorkers:
    """Processes that read for the loader."""

    def test_more_microbatches_than_pipes_hold(self) -> None:
        class Long(Numbers):
            def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
                return {key: tensor.repeat(20_000) for key, tensor in super().__getitem__(idx).items()}

        loader = StepLoader(Long(40), micro_batch_size=1, global_batch_size=20, num_workers=2)
        assert positions(loader) == [[[index] for index in range(start, start + 20)] for start in (0, 20)]

    def test_one_that_is_killed_ends_the_run_with_the_cause(self) -> None:
        loader = StepLoader(Numbers(40), micro_batch_size=4, global_batch_size=8, num_workers=2)
        next(loader)
        (first, second) = loader._workers.processes
        # Left to the run, which saves and ends them itself.
        os.kill(first.pid, signal.SIGTERM)
        next(loader)
        os.kill(second.pid, signal.SIGKILL)
        wait([second.sentinel])  # joining it here would take its exit code from the loader's thread
        with pytest.raises(RuntimeError, match=rf"data worker 2 of 2 \(process {second.pid}\) was killed by SIGKILL"):
            next(loader), next(loader)
        loader.close()
        assert first.exitcode == -signal.SIGKILL

    def test_one_that_fails_says_why(self) -> None:
        loader = StepLoader(Damaged(4), micro_batch_size=2, global_batch_size=4, num_workers=2)
        next(loader)
        with pytest.raises(RuntimeError, match=r"(?s)data worker 1 of 2 .* failed:\nTraceback .*IndexError: 4"):
            next(loader)
        loader.close()

    def test_what_they_refuse_is_refused_as_without_them(self) -> None:
        loader = StepLoader(Unfit(4), micro_batch_size=2, global_batch_size=4, num_workers=2)
        with pytest.raises(TrainingError, match=r"^sample 0 is unfit$"):
            next(loader)
        loader.close()

    def test_they_end_when_their_parent_is_killed(self) -> None:
        code = (
            "import os, signal\n"
            "from megatron_prealign.dataset.sampler import StepLoader\n"
            "from tests.dataset.test_sampler import Numbers\n"
            "loader = StepLoader(Numbers(40), micro_batch_size=4, global_batch_size=8, num_workers=2)\n"
            "print(*(process.pid for process in loader._workers.processes), flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        deadline = time.monotonic() + 20
        while any(map(is_running, map(int, done.stdout.split()))):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_moved_position_discards_what_was_read_ahead() -> None:
    loader = StepLoader(Numbers(40), micro_batch_size=4, global_batch_size=4)
    next(loader)
    loader.consumed_samples = 20
    assert positions([next(loader)]) == [[[20, 21, 22, 23]]]
    loader.close()
    assert positions([next(loader)]) == [[[24, 25, 26, 27]]]


def test_an_error_while_reading_ahead_reaches_the_caller() -> None:
    loader = StepLoader(Damaged(4), micro_batch_size=4, global_batch_size=4)
    next(loader)
    with pytest.raises(IndexError):
        next(loader)


def test_indivisible_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"global_batch_size 10 must be a multiple of .* = 4"):
        StepLoader(Numbers(10), micro_batch_size=2, global_batch_size=10, data_parallel_size=2)
