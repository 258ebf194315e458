"""A run goes on exactly where no size divides another: parameters, buckets, ranks and words.

Powers of two hide what padding can do: gradient buckets, parameters within them and the shares of ranks all begin at
multiples of powers of two there.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from megatron_prealign.checkpoint import folder, sharded
from megatron_prealign.testing import run_distributed
from tests.workspace import MakeValues

NUM_STEPS = 3
TIMEOUT_SECONDS = 1200.0
# A hidden size that is no multiple of 64, an odd number of heads, layers and vocabulary rows.
MODEL = {
    "num_layers": 3,
    "hidden_size": 54,
    "num_attention_heads": 3,
    "num_query_groups": 1,
    "ffn_hidden_size": 75,
    "make_vocab_size_divisible_by": 1,
    "vocab_size": 331,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """How a run is laid out, and what it trains."""

    data_parallel: int = 3
    bucket_size: int | None = None
    num_sequences: int = 15
    is_sharded: bool = True
    overlaps: bool = True
    stage: str = "pretrain"
    pipeline: int = 1
    precision: str = "fp32"
    untied: bool = False

    @property
    def world_size(self) -> int:
        return self.data_parallel * self.pipeline

    def values(self, make_values: MakeValues, run: Path, num_steps: int) -> Any:
        parallel = {
            "pipeline_model_parallel_size": self.pipeline,
            "use_distributed_optimizer": self.is_sharded,
            "overlap_grad_reduce": self.overlaps,
            "ddp_bucket_size": self.bucket_size,
        }
        training = {"train_steps": num_steps, "global_batch_size": self.num_sequences, "precision": self.precision}
        layers = {"num_layers": 3 * self.pipeline, "untie_embeddings_and_output_weights": self.untied}
        schedule = {"lr_decay_style": "constant"}
        # Steps large enough that another's moments are seen at once.
        sections = {"parallel": parallel, "training": training, "schedule": schedule, "optimizer": {"lr": 1e-2}}
        return make_values(self.stage, run, model={**MODEL, **layers}, **sections)


SHORT = [
    Case(bucket_size=9_000),
    Case(bucket_size=1, stage="align_init", untied=True),  # each parameter alone: most ranks have nothing of a norm
    Case(data_parallel=5, bucket_size=4_000, num_sequences=5, precision="bf16"),  # one microbatch a rank
    Case(data_parallel=5, is_sharded=False, overlaps=False, stage="align_init"),
    Case(data_parallel=1, overlaps=False, pipeline=2),  # the tied embedding has a bucket of its own
]
LONG = [
    # In bf16 one microbatch a rank.
    Case(
        ranks,
        bucket_size,
        15 if precision == "fp32" else ranks,
        is_sharded,
        overlaps,
        stage,
        pipeline,
        precision,
    )
    for (ranks, pipeline), (bucket_size, overlaps), is_sharded, stage, precision in product(
        ((3, 1), (3, 2), (5, 1)),
        # Buckets are cut for overlap alone.
        ((None, False), (None, True), (1, True), (4_000, True), (20_000, True)),
        (False, True),
        ("pretrain", "align_init"),
        ("fp32", "bf16"),
    )
]
Step = tuple[float, float | None]
"""Loss, and gradient norm before clipping."""


def _steps(trainer: Any) -> list[Step]:
    found = []
    for _ in range(NUM_STEPS):
        norm = trainer.train_step()
        found.append((trainer.stage.take_metrics()["lm_loss"], norm))
    return found


def _trainers(configurations: Sequence[Any]) -> Iterator[Any]:
    """Build one trainer after another in the same processes; all have the layout of the first."""
    from megatron_prealign.testing.trainers import make_trainer

    for values in configurations:
        yield make_trainer(values)


def _train_through(configurations: Sequence[Any]) -> list[list[Step]]:
    """Train runs that are saved on their way, and return the steps after that."""
    found = []
    for trainer in _trainers(configurations):
        _steps(trainer)
        trainer.save()
        found.append(_steps(trainer))
    return found


def _go_on(configurations: Sequence[Any]) -> list[list[Step]]:
    found = []
    for trainer in _trainers(configurations):
        assert trainer.state.step == NUM_STEPS
        found.append(_steps(trainer))
    return found


def _check(cases: Sequence[Case], make_values: MakeValues, root: Path) -> None:
    """Check cases of one number of ranks."""

    def values(case: Case, number: int) -> Any:
        return case.values(make_values, root / str(number), 2 * NUM_STEPS)

    def run(function: Any, them: Sequence[Case]) -> Any:
        every = [values(case, number) for number, case in enumerate(them)]
        return run_distributed(function, them[0].world_size, every, timeout_seconds=TIMEOUT_SECONDS)[0]

    expected = run(_train_through, cases)
    for number, case in enumerate(cases):
        if case.is_sharded:
            assert differing_copies(folder.all_checkpoints(root / str(number))[0]) == [], case
    assert dict(zip(cases, run(_go_on, cases), strict=True)) == dict(zip(cases, expected, strict=True))
    fewer = [dataclasses.replace(case, data_parallel=1, bucket_size=case.bucket_size and 7_000) for case in cases]
    for case, got, wanted in zip(cases, run(_go_on, fewer), expected, strict=True):
        if case.precision == "fp32":
            for step in range(NUM_STEPS):
                assert got[step] == pytest.approx(wanted[step], rel=1e-5, abs=0), (case, step)


def _by_world_size(cases: Sequence[Case]) -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(f"dp{case.data_parallel}-pp{case.pipeline}", []).append(case)
    return groups


@pytest.mark.parametrize("cases", _by_world_size(SHORT).values(), ids=_by_world_size(SHORT))
def test_odd_sizes_go_on(cases: list[Case], make_values: MakeValues, tmp_path: Path) -> None:
    _check(cases, make_values, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("cases", _by_world_size(LONG).values(), ids=_by_world_size(LONG))
def test_all_odd_sizes_go_on(cases: list[Case], make_values: MakeValues, tmp_path: Path) -> None:
    _check(cases, make_values, tmp_path)


def differing_copies(checkpoint: Path) -> list[str]:
    """Return the weights of a checkpoint whose main parameters are others, bit for bit in fp32."""
    from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    found: dict[str, Any] = {}
    reader = torch.distributed.checkpoint.FileSystemReader(checkpoint)
    _load_state_dict(found, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    flat = {name: value for name, value in _tensors(found)}
    copies = {name: value for name, value in flat.items() if name.startswith("optimizer.state.param.")}
    assert copies
    weights = {name: flat[name.removeprefix("optimizer.state.param.")] for name in copies}
    return [name for name, copy in copies.items() if not torch.equal(copy.to(weights[name].dtype), weights[name])]


def _tensors(nested: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _tensors(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value


# As megatron-core saves the distributed optimizer, and earlier versions of this package did.
OLD_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}


def _save_as_before(values: Any) -> None:
    from megatron_prealign.testing.trainers import make_trainer

    def whole(optimizer: Any, model: Any, is_loading: bool) -> Any:
        return {"optimizer": optimizer.sharded_state_dict(model, is_loading=is_loading, metadata={**OLD_METADATA})}

    trainer = make_trainer(values)
    _steps(trainer)
    with mock.patch.object(sharded, "_sharded_optimizer", whole), mock.patch.object(sharded, "optimizer_boxes", _none):
        trainer.save()


def _none(*_: Any) -> list[Any]:
    return []


def _start(values: Any) -> str:
    from megatron_prealign.errors import CheckpointError
    from megatron_prealign.testing.trainers import make_trainer

    try:
        make_trainer(values)
    except CheckpointError as error:
        return str(error)
    return ""


SMALL_FORM = {"num_layers": 4, "hidden_size": 104, "num_attention_heads": 4, "ffn_hidden_size": 208, "vocab_size": 1000}


def test_a_damaged_old_checkpoint_is_refused_and_a_sound_one_goes_on(make_values: MakeValues, tmp_path: Path) -> None:
    """Megatron-core's own save of several padded buckets, and of one."""

    def values(name: str, case: Case) -> Any:
        values = case.values(make_values, tmp_path / name, 2 * NUM_STEPS)
        return {**values, "model": {**values["model"], **SMALL_FORM}}

    several, one = Case(1, 60_000, 4, untied=True), Case(1, None, 4, untied=True)
    # Two buckets, whatever the size and the overlap.
    tied = Case(1, None, 4, overlaps=False, pipeline=2)
    expected = run_distributed(_train_through, 1, [values("ours", several)])[0]
    assert differing_copies(folder.all_checkpoints(tmp_path / "ours")[0]) == []
    for name, case in (("damaged", several), ("tied", tied), ("sound", one)):
        run_distributed(_save_as_before, case.world_size, values(name, case))
    (damaged,), (sound,) = (folder.all_checkpoints(tmp_path / name) for name in ("damaged", "sound"))
    for name, case in (("damaged", several), ("tied", tied)):
        (checkpoint,) = folder.all_checkpoints(tmp_path / name)
        assert differing_copies(checkpoint) != []
        for said in run_distributed(_start, case.world_size, values(name, case)):
            assert said.startswith(f"{checkpoint}: the optimizer's state is damaged: its fp32 copies of")
            assert "checkpoint.init_from" in said
    assert differing_copies(sound) == []
    # Into several buckets.
    assert run_distributed(_go_on, 1, [values("sound", several)])[0] == expected
    fresh = {**values("new", several), "checkpoint": {"init_from": str(damaged)}}
    assert run_distributed(_start, 1, fresh)[0] == ""


def _held(values: Any) -> tuple[dict[Any, torch.Tensor], list[Step]]:
    """Return the optimizer's state of a run that is continued, or begun and saved; and its next steps."""
    from megatron_prealign.platform.megatron.optimizer_shards import optimizer_boxes
    from megatron_prealign.testing.trainers import make_trainer
    from megatron_prealign.training.invariants import check_replicas

    trainer = make_trainer(values)
    if trainer.state.step == 0:
        _steps(trainer)
        trainer.save()
    check_replicas(trainer.chunks)
    boxes = optimizer_boxes(trainer.optimizer, sharded._sharded_model(trainer.chunks))
    return {(box.key, box.offsets): box.values.clone() for box in boxes}, _steps(trainer)


@pytest.mark.parametrize(("first", "second"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_another_precision_takes_over_the_optimizers_state(
    first: str, second: str, make_values: MakeValues, tmp_path: Path
) -> None:
    """The weights come from the main parameters on every rank; that they were rounded is no damage."""

    def run(precision: str, ranks: int) -> Any:
        case = Case(ranks, None, 15, overlaps=False, precision=precision)
        return run_distributed(_held, ranks, case.values(make_values, tmp_path, 2 * NUM_STEPS))

    saved, loaded, alone = run(first, 3), run(second, 3), run(second, 1)
    for (before, _), (after, _) in zip(saved, loaded, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[box], after[box]) for box in before)
    if second == "fp32":
        assert loaded[0][1] == [pytest.approx(step, rel=1e-5) for step in alone[0][1]]
