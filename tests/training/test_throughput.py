"""Speed, TFLOP/s and MFU against sums done by hand, on a clock that is set by hand."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_prealign.config import config_from_dict
from megatron_prealign.training import metrics, throughput
from megatron_prealign.training.metrics import MetricsWriter
from megatron_prealign.training.state import TrainState
from megatron_prealign.training.throughput import Throughput


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (metrics, throughput):
        monkeypatch.setattr(module, "time", clock)
    return clock


def _throughput(peak_flops: float | None) -> Throughput:
    model = {
        "num_layers": 3,
        "hidden_size": 8,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "kv_channels": 5,
        "ffn_hidden_size": 11,
        "vocab_size": 100,
        "make_vocab_size_divisible_by": 64,
    }
    config = config_from_dict({"model": model, "data": {"seq_length": 16}})
    return Throughput(config, world_size=4, peak_flops=peak_flops)


def test_a_record_counts_what_was_done_since_the_last(clock: Clock) -> None:
    measured = _throughput(peak_flops=50e3)
    state = TrainState(step=10, lm_tokens=999, word_tokens=99)
    measured.start(state)
    with measured.waiting.running():
        clock.now += 2
    clock.now += 6
    with measured.pause.running():
        clock.now += 5
    after = dataclasses.replace(state, step=14, lm_tokens=state.lm_tokens + 64, word_tokens=state.word_tokens + 32)
    record = measured.take(after)
    # tests/config/test_flops.py: 25,296 operations a token of language modelling, 13,392 a token of a word.
    flops = 64 * 25_296 + 32 * 13_392
    assert flops == 2_047_488
    assert record == {
        "tokens_per_second": 96 / 8,
        "step_seconds": 8 / 4,
        "pause_seconds": 5.0,
        "data_wait_share": 2 / 8,
        "teraflops_per_rank": pytest.approx(2_047_488 / 8 / 4 / 1e12),
        "mfu": pytest.approx(2_047_488 / 8 / 4 / 50e3),
    }
    clock.now += 1
    again = measured.take(dataclasses.replace(after, step=15, lm_tokens=after.lm_tokens + 7))
    assert (again["tokens_per_second"], again["pause_seconds"], again["data_wait_share"]) == (7.0, 0.0, 0.0)


def test_no_utilisation_where_the_peak_is_not_known(clock: Clock) -> None:
    measured = _throughput(peak_flops=None)
    measured.start(TrainState())
    clock.now += 1
    assert "mfu" not in measured.take(TrainState(step=1, lm_tokens=16))


def test_a_stopwatch_counts_what_is_waited_for(clock: Clock) -> None:
    def slow_items() -> Iterator[int]:
        for item in range(3):
            clock.now += 2
            yield item

    measured = _throughput(None)
    for _ in measured.waiting.timed(slow_items()):
        clock.now += 10
    assert measured.waiting.take() == 6.0


def test_time_left_is_as_the_steps_before_with_all_that_lay_between_them(clock: Clock, tmp_path: Path) -> None:
    values = {"training": {"run_path": str(tmp_path), "train_steps": 200}, "logging": {"tensorboard": False}}
    writer = MetricsWriter(config_from_dict(values), step=100)
    clock.now += 30
    writer.write("train", {"step": 110, "learning_rate": 0.1, "gradient_norm": 1.0, "tokens_per_second": 1.0})
    writer.close()
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (record["seconds"], record["seconds_left"]) == (30, 30 / 10 * 90)
