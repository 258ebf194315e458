"""The ramp-up of the batch size, against megatron-core's own."""

import pytest
from megatron.core import num_microbatches_calculator

from megatron_prealign.config import Config, config_from_dict
from megatron_prealign.config.training import count_samples, global_batch_size_at

THEIRS = getattr(num_microbatches_calculator, "RampupBatchsizeNumMicroBatchesCalculator", None)


def _config(rampup: list[int] | None, train_steps: int) -> Config:
    return config_from_dict(
        {"training": {"rampup_batch_size": rampup, "global_batch_size": 32, "train_steps": train_steps}}
    )


@pytest.mark.skipif(THEIRS is None, reason="megatron-core 0.19 has no ramp-up by equal steps")
@pytest.mark.parametrize("rampup", [[8, 4, 100], [8, 8, 96], [4, 28, 10], [16, 16, 0]])
def test_sizes_are_megatrons(rampup: list[int]) -> None:
    training = _config(rampup, 30).training
    calculator = None
    if rampup[2]:  # megatron-core's own divides by zero
        calculator = THEIRS(32, 2, 2, False, 0, *rampup)
    consumed = 0
    for step in range(30):
        assert count_samples(_config(rampup, step).training) == consumed
        size = global_batch_size_at(training, consumed)
        if calculator is None:
            assert size == 32
        else:
            calculator.update(consumed, True)
            assert size == calculator.get_current_global_batch_size()
        consumed += size


def test_without_a_rampup_all_steps_are_alike() -> None:
    training = _config(None, 10).training
    assert [global_batch_size_at(training, consumed) for consumed in (0, 32, 1000)] == [32] * 3
    assert count_samples(training) == 320
