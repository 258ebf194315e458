"""Where a step makes the host wait for the device: every place is listed here, and nothing else may.

On a GPU each read of a tensor's number waits until all queued work is done. Here tensors are the CPU's, so that reads
of tensors which are the host's own anyway are seen too; those are listed apart.
"""

import collections
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_prealign.testing import run_distributed
from tests.workspace import MakeValues

Places = collections.Counter[str]
# Methods that return numbers to Python without passing through an operator on a CPU.
METHODS = {getattr(torch.Tensor, name) for name in ("tolist", "numpy", "cpu", "__array__", "__contains__")}
OPERATORS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim"}


def _place() -> str:
    """Return the file and the function of ours or megatron-core's that is reading."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        for root in ("megatron_prealign/", "megatron/core/"):
            if root in path and not path.endswith("platform/cpu.py"):
                return f"{root[:-1].partition('/')[0]}:{path.rpartition(root)[2]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


class _Methods(TorchFunctionMode):
    def __init__(self, places: Places) -> None:
        self.places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in METHODS:
            self.places[_place()] += 1
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in OPERATORS:
            self.places[_place()] += 1
        return func(*args, **(kwargs or {}))


def _reads(configurations: list[Any]) -> list[tuple[Places, Places]]:
    """Return the places of a plain step, and of one with its record."""
    from megatron_prealign.testing.trainers import make_trainer

    found = []
    for values in configurations:
        trainer = make_trainer(values)
        trainer.train_step()
        pair = []
        for is_recorded in (False, True):
            places: Places = collections.Counter()
            with _Methods(places), _Operators(places):
                norm = trainer.train_step()
                if is_recorded:
                    trainer._record(norm)
            pair.append(places)
        found.append(tuple(pair))
    return found


# On the device: each is a wait for it.
STEP = {
    "training/guards.py:_sum_over_ranks": 1,  # the loss, whether all gradients are finite, and any rank must stop
    "training/norms.py:_global_norm": 1,  # what clipping divides by, and the record
}
RECORD = {
    "platform/agreement.py:max_over_ranks": 1,  # speed and memory of the slowest
    "training/guards.py:_sum_over_ranks": 1,
    "training/norms.py:_global_norm": 2,  # and the parameters'
    "training/invariants.py:check_batches": 1,  # that ranks have the samples that they should
    "training/invariants.py:check_gradients": 1,
    "training/invariants.py:check_replicas": 1,
    "training/objectives/language_modelling.py:describe_losses": 1,
}
WORDS = {"alignment/loss.py:take_losses": 1, "training/objectives/alignment.py:take_metrics": 1}
# Of tensors that lie in the host's memory, whatever the device.
HOST = {
    "training/objectives/language_modelling.py:describe_losses": 3,
    "alignment/contrastive.py:build": 10,
}


@pytest.mark.parametrize("sharded", [False, True], ids=["plain", "distributed-optimizer"])
def test_reads_of_a_step_are_these(sharded: bool, make_values: MakeValues, tmp_path: Path) -> None:
    def values(stage: str, precision: str) -> Any:
        sections = {"training": {"precision": precision}, "logging": {"log_interval": 3}}
        return make_values(stage, tmp_path / stage, parallel={"use_distributed_optimizer": sharded}, **sections)

    configurations = [values("pretrain", "fp32"), values("align_init", "bf16")]
    plain, with_words = run_distributed(_reads, 2, configurations)[0]
    assert _without_host(plain) == [STEP, RECORD]
    assert _without_host(with_words) == [STEP, {**RECORD, **WORDS}]


def _without_host(pair: tuple[Places, Places]) -> list[dict[str, int]]:
    found = []
    for places in pair:
        assert all(place.startswith("megatron_prealign:") for place in places), places
        own = {place.partition(":")[2]: count for place, count in places.items()}
        found.append({place: left for place, count in own.items() if (left := count - HOST.get(place, 0))})
    return found
