"""The trainer's own step on fake CUDA tensors: where it waits for the device, what it uploads, what it keeps.

Every layer of a model does the same, so two are enough. No GPU is needed, only a C++ compiler; without one the tests
are skipped with the reason.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from benchmarks.step_memory import INTERLEAVED, TP2_PP2, TP8, values
from megatron_prealign.config import config_from_dict
from megatron_prealign.config.counts import count_parameters, saved_by_muon
from megatron_prealign.errors import PrealignError
from megatron_prealign.model import attention
from megatron_prealign.model.build import PrealignGPTModel
from megatron_prealign.testing.fake_gpu import FakeReport, FakeRun, run_fake_steps
from megatron_prealign.training.loop import Trainer

COMPILER = os.environ.get("CXX", "c++")
pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="needs a C++ compiler: apt-get install g++")
# At normal sizes in real layouts: minutes, with make test-fake-gpu.
whole = pytest.mark.exhaustive

SMALL: dict[str, Any] = {"num_layers": 2, "num_microbatches": 2}
RUNS = {
    "150m": FakeRun(values("150m", 1, 8, 1024, **SMALL)),
    "1b-tp2-pp2-dp2": FakeRun(values("1b", 8, 4, 1024, parallel=TP2_PP2, **SMALL), 8),
    "1b-tp2-pp2-dp2-last-stage": FakeRun(values("1b", 8, 4, 1024, parallel=TP2_PP2, **SMALL), 8, 4),
    "1b-interleaved-sharded": FakeRun(values("1b", 8, 4, 1024, parallel=INTERLEAVED, **SMALL | {"num_layers": 4}), 8),
    "llama-8b-tp8-sp": FakeRun(values("llama-8b", 64, 1, 8192, parallel=TP8, **SMALL), 64),
    "llama-1b-words": FakeRun(values("llama-1b", 8, 1, 4096, words=1024, **SMALL), 8),
}


DOCUMENTS: dict[str, Any] = {"reset_attention_mask": True, "reset_position_ids": True, "eod_mask_loss": True}


def _apart(preset: str, *sizes: int, change: str = "", **options: Any) -> FakeRun:
    """Return a run that keeps documents apart."""
    plain = values(preset, *sizes, **SMALL, **options)
    return FakeRun({**plain, "data": {**plain["data"], **DOCUMENTS}}, world_size=sizes[0], change=change)


TINY = {
    "tiny": FakeRun(values("tiny", 1, 2, 64, **SMALL)),
    "tiny-words": FakeRun(values("tiny", 1, 2, 64, words=64, **SMALL)),
}


def _faulty(fault: Any) -> FakeRun:
    return FakeRun(RUNS["150m"].values, change=f"{__name__}:{fault.__name__}")


@contextlib.contextmanager
def read_a_number(trainer: Trainer) -> Iterator[None]:
    compute = trainer.compute_gradients

    def reading() -> None:
        compute()
        trainer.stage.step_sums().sum().item()

    with patch.object(trainer, "compute_gradients", reading):
        yield


@contextlib.contextmanager
def mask_documents(_: Trainer) -> Iterator[None]:
    with patch.object(attention, "_has_segment_kernel", lambda *_: False):
        yield


LOSS = PrealignGPTModel.compute_language_model_loss


@contextlib.contextmanager
def copy_the_logits(_: Trainer) -> Iterator[None]:
    def copying(self: PrealignGPTModel, labels: Tensor, logits: Tensor) -> Tensor:
        return LOSS(self, labels, logits.clone())

    with patch.object(PrealignGPTModel, "compute_language_model_loss", copying):
        yield


@contextlib.contextmanager
def weigh_on_the_host(_: Trainer) -> Iterator[None]:
    def weighing(self: PrealignGPTModel, labels: Tensor, logits: Tensor) -> Tensor:
        losses = LOSS(self, labels, logits)
        return losses * torch.ones(losses.shape)

    with patch.object(PrealignGPTModel, "compute_language_model_loss", weighing):
        yield


@pytest.fixture(scope="module")
def reports() -> dict[str, FakeReport]:
    runs = {**RUNS, "read": _faulty(read_a_number), "copied": _faulty(copy_the_logits)}
    return dict(zip(runs, run_fake_steps(list(runs.values())), strict=True))


# Of every step, whatever the layout: the same as tests/training/test_host_reads.py finds on a CPU.
WAITS = {"training/guards.py:_sum_over_ranks": 1, "training/norms.py:_global_norm": 1}
# megatron-core synchronizes after each exchange of a pipeline that is not interleaved.
EXCHANGES = {"core/pipeline_parallel/p2p_communication.py:_communicate": 3}
MORE_WAITS = {"1b-tp2-pp2-dp2": EXCHANGES, "1b-tp2-pp2-dp2-last-stage": EXCHANGES}
RECORD_WAITS = {
    **WAITS,
    "training/norms.py:_global_norm": 2,  # and the parameters'
    "platform/agreement.py:max_over_ranks": 2,  # an upload, and a read
    "platform/device.py:synchronize": 1,
    "training/invariants.py:check_batches": 1,
    "training/invariants.py:check_gradients": 1,
    "training/objectives/language_modelling.py:describe_losses": 1,
}
REPLICA_WAITS = {"training/invariants.py:check_replicas": 1}
WORD_WAITS = {"alignment/loss.py:take_losses": 1, "training/objectives/alignment.py:take_metrics": 2}
UPLOADS = {"training/objectives/language_modelling.py:make_pass": 12}
WORD_UPLOADS = {"alignment/contrastive.py:build": 3, "training/objectives/alignment.py:to_microbatch": 3}
# MiB at the peak of a step: all, and what is beside weights, gradients and optimizer.
MEMORY = {
    "150m": (4383.5, 2182.5),
    "1b-tp2-pp2-dp2": (1877.9, 561.3),
    "1b-tp2-pp2-dp2-last-stage": (2540.1, 1223.4),
    "1b-interleaved-sharded": (2144.3, 978.3),
    "llama-8b-tp8-sp": (2975.0, 1645.5),
    "llama-1b-words": (9129.2, 2532.1),
}


@pytest.mark.slow
def test_a_small_step_waits_and_uploads_at_these_places() -> None:
    plain, with_words = run_fake_steps(list(TINY.values()))
    assert (plain.waits, plain.record_waits, plain.uploads) == (WAITS, RECORD_WAITS, UPLOADS)
    found = with_words.waits, with_words.record_waits, with_words.uploads
    assert found == (WAITS, RECORD_WAITS | WORD_WAITS, UPLOADS | WORD_UPLOADS)


@pytest.mark.slow
def test_documents_kept_apart_need_no_mask_and_no_more_waits() -> None:
    """A mask of 8 x 4,096 x 4,096 positions takes 256 MiB in bf16, once or a layer."""
    sizes = (1, 8, 4096)
    mask = 8 * 4096 * 4096 * 2
    runs = [FakeRun(values("tiny", *sizes, **SMALL)), _apart("tiny", *sizes)]
    masked = _apart("tiny", *sizes, change=f"{__name__}:{mask_documents.__name__}")
    together, apart, with_mask = run_fake_steps([*runs, masked])
    assert apart.waits == together.waits == WAITS
    assert apart.uploads == {place: number + 4 for place, number in UPLOADS.items()}  # documents and bounds
    assert apart.memory["peak"] - together.memory["peak"] < 0.02 * mask
    assert with_mask.memory["peak"] - together.memory["peak"] > 0.9 * mask


@pytest.mark.slow
def test_muon_waits_no_more_than_adamw_and_keeps_half_as_much_of_matrices() -> None:
    adamw = values("150m", 4, 2, 256, parallel={"tensor_model_parallel_size": 2}, **SMALL)
    muon = {**adamw, "optimizer": {"name": "muon"}}
    usual, orthogonal = run_fake_steps([FakeRun(adamw, 4), FakeRun(muon, 4)])
    assert (orthogonal.waits, orthogonal.uploads) == (usual.waits, usual.uploads) == (WAITS, UPLOADS)
    saved = usual.memory["optimizer"] - orthogonal.memory["optimizer"]
    assert saved == saved_by_muon(config_from_dict(muon)) // 2  # each tensor-parallel rank has half of each matrix


@whole
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("run", RUNS)
def test_a_step_waits_for_the_device_at_these_places(run: str, reports: dict[str, FakeReport]) -> None:
    assert reports[run].waits == WAITS | MORE_WAITS.get(run, {})


@whole
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("run", RUNS)
def test_a_record_reads_each_number_once(run: str, reports: dict[str, FakeReport]) -> None:
    more = MORE_WAITS.get(run, {}) | (WORD_WAITS if run == "llama-1b-words" else {})
    assert reports[run].record_waits == RECORD_WAITS | ({} if run == "150m" else REPLICA_WAITS) | more


@whole
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("run", RUNS)
def test_only_these_places_take_tensors_to_the_device(run: str, reports: dict[str, FakeReport]) -> None:
    assert reports[run].uploads == UPLOADS | (WORD_UPLOADS if run == "llama-1b-words" else {})


@whole
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("run", RUNS)
def test_a_rank_keeps_this_much(run: str, reports: dict[str, FakeReport]) -> None:
    """Within 0.5 percent: what torch's own operators allocate differs a little between its versions."""
    memory = reports[run].memory
    assert (memory["peak"] / 2**20, memory["step"] / 2**20) == pytest.approx(MEMORY[run], rel=5e-3)


@whole
@pytest.mark.timeout(1500)
def test_what_stays_is_eighteen_bytes_a_parameter(reports: dict[str, FakeReport]) -> None:
    """bf16 weights, fp32 gradients, fp32 weights and two moments; the last three are split by the sharded optimizer."""
    memory = reports["150m"].memory
    model = config_from_dict(RUNS["150m"].values).model
    number = count_parameters(model, model.vocab_size or 0)
    found = [memory[part] / number for part in ("weights", "gradients", "optimizer")]
    assert found == pytest.approx([2, 4, 12], rel=1e-3)
    sharded, replicated = reports["1b-interleaved-sharded"].memory, reports["1b-tp2-pp2-dp2"].memory
    assert replicated["optimizer"] / replicated["weights"] == pytest.approx(6, rel=1e-3)
    assert sharded["optimizer"] / sharded["weights"] == pytest.approx(3, rel=1e-3)


@whole
@pytest.mark.timeout(1500)
def test_one_more_read_is_seen(reports: dict[str, FakeReport]) -> None:
    assert reports["read"].waits == WAITS | {"training/loop.py:train_step": 1}


@whole
@pytest.mark.timeout(1500)
def test_a_copy_of_the_logits_is_seen(reports: dict[str, FakeReport]) -> None:
    logits = 8 * 1024 * 50_304 * 2
    assert reports["copied"].memory["peak"] > reports["150m"].memory["peak"] + 0.5 * logits


@whole
@pytest.mark.timeout(1500)
def test_a_tensor_of_the_host_is_refused() -> None:
    with pytest.raises(PrealignError, match="same device"):
        run_fake_steps([_faulty(weigh_on_the_host)])
