"""What becomes of a checkpoint's parts where it is loaded by something else than what saved it."""

import contextlib
import dataclasses
import io
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from megatron_prealign.checkpoint import portability, sharded
from megatron_prealign.checkpoint.environment import Environment
from megatron_prealign.checkpoint.folder import LAYOUT, newest_checkpoint
from megatron_prealign.checkpoint.safe_pickle import read_metadata
from megatron_prealign.config import config_from_dict
from megatron_prealign.errors import CheckpointError, ConfigError
from megatron_prealign.platform.distributed import RandomStates, device_of, get_random_states
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer, train_and_save_all
from megatron_prealign.training.setup import plan_run
from tests.workspace import MakeValues

DOCS = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
UNRECORDED = ("device", "layers", "adamw", "dtype", "versions")
"""What layout.json did not say at first."""


def test_the_documentation_has_the_table_of_the_code() -> None:
    assert portability.markdown() in DOCS.read_text(encoding="utf-8")


def test_every_aspect_and_every_recorded_field_belongs_to_the_table() -> None:
    for part in portability.PARTS:
        assert {*part.refused, *part.reset} <= portability.ASPECTS.keys()
        assert not {*part.refused} & {*part.reset}
        assert part.reset_to or not (part.reset or part.if_absent == "reset"), part.name
    ours = Environment(world_size=1, device="cpu", layers="local", adamw="a", dtype="float32", versions={"torch": "2"})
    theirs = Environment(
        world_size=2, tensor_model_parallel_size=2, device="cuda", layers="te", adamw="b", dtype="bfloat16", versions={}
    )
    assert ours.differences(ours) == {}
    assert ours.differences(theirs).keys() <= portability.ASPECTS.keys()
    assert set(ours.differences(theirs)) == {"ranks", "layout", "device", "layers", "AdamW", "precision", "versions"}
    # An old file says nothing of these; that is no difference.
    assert Environment(world_size=1).differences(ours) == {}
    assert Environment().differences(ours) == {"ranks": "world_size was None, now 1"}


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("decoder.layers.mlp.linear_fc1.weight", portability.WEIGHTS),
        ("output_layer.weight", portability.WEIGHTS),
        ("decoder.layers.mlp.linear_fc1._extra_state/shard_0_2", portability.EXTRA_STATES),
        ("decoder.final_layernorm._extra_state", portability.EXTRA_STATES),
        ("optimizer.state.exp_avg.decoder.final_layernorm.weight", portability.MOMENTS),
        ("optimizer.state.exp_avg_sq.output_layer.weight", portability.MOMENTS),
        ("optimizer.state.fp32_param.output_layer.weight", portability.MAIN_PARAMETERS),
        ("optimizer.state.param.output_layer.weight", portability.MAIN_PARAMETERS),
        ("random_states/shard_0_1", portability.RANDOM_STATES),
        ("optimizer.state.max_exp_avg_sq.output_layer.weight", None),
    ],
)
def test_keys_have_one_part(key: str, part: portability.Part | None) -> None:
    assert portability.part_of(key) is part
    assert portability.may_be_absent(key) == (part is portability.EXTRA_STATES)


def _of_cuda() -> RandomStates:
    """Return states as a run on a GPU saves them: those of its generators are 16 bytes."""
    states = get_random_states()
    tracked = {name: torch.zeros(16, dtype=torch.uint8) for name in states["megatron"]}
    return {**states, "cuda": torch.zeros(16, dtype=torch.uint8), "megatron": tracked}


def _save_as_on_cuda(values: Any) -> None:
    with mock.patch.object(sharded, "get_random_states", _of_cuda):
        train_and_save_all([values])


def _continue(values: Any) -> tuple[str, list[dict[str, Any]]]:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        records = train_and_save_all([values])[0]
    return said.getvalue(), records


def _edit_layout(run: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    layout = json.loads((checkpoint / LAYOUT).read_text())
    edit(layout)
    (checkpoint / LAYOUT).write_text(json.dumps(layout))


def _forget(layout: dict[str, Any]) -> None:
    for name in UNRECORDED:
        layout.pop(name, None)


@pytest.mark.parametrize("edit", [_forget, lambda layout: layout.update(device="cuda")], ids=["old", "recorded"])
def test_random_states_of_another_device_are_left_out(
    edit: Callable[[dict[str, Any]], Any], make_values: MakeValues, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # The manifest knows the layout as it was.
    trusting = {"checkpoint": {"verify": False}, "model": DROPOUT}
    run_distributed(_save_as_on_cuda, 1, make_values("pretrain", run, training={"train_steps": 2}, **trusting))
    _edit_layout(run, edit)
    said, records = run_distributed(
        _continue, 1, make_values("pretrain", run, training={"train_steps": 4}, **trusting)
    )[0]
    assert len(records) == 2
    line = "Reset because device was cuda, now cpu: random states, to those that training.seed gives"
    assert sum(line in row for row in said.splitlines()) == 1, said


def test_an_old_checkpoint_of_the_same_device_goes_on_bit_for_bit(make_values: MakeValues, tmp_path: Path) -> None:
    def values(name: str, steps: int) -> Any:
        sections = {"model": DROPOUT, "schedule": {"lr_decay_steps": 4}, "training": {"train_steps": steps}}
        return make_values("pretrain", tmp_path / name, checkpoint={"verify": False}, **sections)

    whole = run_distributed(_continue, 1, values("whole", 4))[0][1]
    before = run_distributed(_continue, 1, values("parts", 2))[0][1]
    _edit_layout(tmp_path / "parts", _forget)
    said, after = run_distributed(_continue, 1, values("parts", 4))[0]
    assert before + after == whole
    assert "Reset because" not in said


def _device_and_environment(values: Any) -> tuple[str, str, dict[str, Any]]:
    trainer = make_trainer(values)
    environment = Environment.of_run(trainer.chunks, trainer.optimizer)
    return device_of(get_random_states()), device_of(_of_cuda()), dataclasses.asdict(environment)


def test_a_save_records_what_it_depends_on(make_values: MakeValues, tmp_path: Path) -> None:
    ours, theirs, found = run_distributed(_device_and_environment, 1, make_values("pretrain", tmp_path / "run"))[0]
    assert (ours, theirs) == ("cpu", "cuda")
    assert found.pop("versions").keys() == {"torch", "megatron-core"}
    assert found == {
        "world_size": 1,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "virtual_pipeline_model_parallel_size": None,
        "context_parallel_size": 1,
        "device": "cpu",
        "layers": "local",
        "adamw": "megatron_prealign.training.update_rules.GroupStepAdamW",
        "dtype": "float32",
    }


def _edit_metadata(run: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    metadata = read_metadata(checkpoint / ".metadata")
    edit(metadata.state_dict_metadata)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def _start_errors(runs: list[Any]) -> list[str | None]:
    errors: list[str | None] = []
    for values in runs:
        try:
            make_trainer(values)
            errors.append(None)
        except CheckpointError as error:
            errors.append(str(error))
    return errors


@pytest.mark.parametrize("world_size", [1, 2])
def test_only_extra_states_may_be_missing(world_size: int, make_values: MakeValues, tmp_path: Path) -> None:
    def without(*names: str) -> Callable[[dict[str, Any]], Any]:
        return lambda entries: [entries.pop(key) for key in list(entries) if any(name in key for name in names)]

    def with_amsgrad(entries: dict[str, Any]) -> None:
        entries["optimizer.state.max_exp_avg_sq.output_layer.weight"] = next(iter(entries.values()))

    edits = {
        "whole": lambda _: None,
        "extra": without("_extra_state"),
        "weight": without("decoder.layers.mlp.linear_fc2.weight"),
        "moments": without("optimizer.state.exp_avg_sq.embedding", "optimizer.state.exp_avg_sq.decoder"),
        "states": without("random_states"),
        "unknown": with_amsgrad,
    }
    layout = {"pipeline_model_parallel_size": world_size}

    def values(name: str) -> Any:
        return make_values(
            "pretrain",
            tmp_path / name,
            training={"train_steps": 1},
            parallel=layout,
            checkpoint={"verify": False},
        )

    run_distributed(train_and_save_all, world_size, [values(name) for name in edits])
    for name, edit in edits.items():
        _edit_metadata(tmp_path / name, edit)
    for found in run_distributed(_start_errors, world_size, [values(name) for name in edits]):
        whole, extra, *errors = found
        assert whole is None and extra is None
        # And two moments of it.
        weight, moments, states, unknown = (error or "" for error in errors)
        assert "it lacks decoder.layers.mlp.linear_fc2.weight (weights) and 2 more; use another" in weight
        assert "it lacks optimizer.state.exp_avg_sq." in moments
        assert "it lacks random_states/shard_" in states
        assert "does not know optimizer.state.max_exp_avg_sq.output_layer.weight" in unknown


@pytest.mark.parametrize("sharded", [False, True], ids=["plain", "distributed"])
def test_parts_that_are_nowhere_and_odd_groups_are_refused(
    sharded: bool, make_values: MakeValues, tmp_path: Path
) -> None:
    def values(name: str) -> Any:
        sections = {"training": {"train_steps": 1}, "parallel": {"use_distributed_optimizer": sharded}}
        return make_values("pretrain", tmp_path / name, checkpoint={"verify": False}, **sections)

    def lose_a_part(entries: dict[str, Any]) -> None:
        entries["optimizer.state.exp_avg.decoder.layers.mlp.linear_fc2.weight"].chunks.pop()

    def edit_groups(edit: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
        def rewrite(run: Path) -> None:
            checkpoint = newest_checkpoint(run)
            assert checkpoint is not None
            common = torch.load(checkpoint / "common.pt", weights_only=True)
            edit(common["optimizer"]["optimizer"]["param_groups"] if sharded else common["optimizer"]["param_groups"])
            torch.save(common, checkpoint / "common.pt")

        return rewrite

    edits: dict[str, tuple[Callable[[Path], None], str]] = {
        "hole": (
            lambda run: _edit_metadata(run, lose_a_part),
            r"exp_avg.decoder.layers.mlp.linear_fc2.weight lacks 2048",
        ),
        "step": (
            edit_groups(lambda groups: groups[0].update(step="x")),
            r"the optimizer's step counts .* are not val",
        ),
        "nan": (edit_groups(lambda groups: groups[0].update(step=float("nan"))), r"the optimizer's step counts"),
        "groups": (edit_groups(list.clear), "can't be loaded into this model"),
    }
    run_distributed(train_and_save_all, 1, [values(name) for name in edits])
    for name, (edit, _) in edits.items():
        edit(tmp_path / name)
    errors = run_distributed(_start_errors, 1, [values(name) for name in edits])[0]
    for (name, (_, expected)), error in zip(edits.items(), errors, strict=True):
        assert re.search(expected, error or ""), (name, error)


def _options_of_groups(configurations: list[Any]) -> list[list[tuple[Any, float]]]:
    from megatron_prealign.testing.trainers import make_trainer

    trainers = [make_trainer(values) for values in configurations]
    return [[(tuple(group["betas"]), group["eps"]) for group in trainer.optimizer.param_groups] for trainer in trainers]


@pytest.mark.parametrize("sharded", [False, True], ids=["plain", "distributed"])
def test_changed_betas_and_eps_apply_to_a_continued_run(sharded: bool, make_values: MakeValues, tmp_path: Path) -> None:
    def values(name: str, steps: int, **optimizer: float) -> Any:
        sections = {"training": {"train_steps": steps}, "parallel": {"use_distributed_optimizer": sharded}}
        start = {"init_from": str(tmp_path / "run"), "init_optimizer": True} if name == "next" else {}
        return make_values("pretrain", tmp_path / name, optimizer=optimizer, checkpoint=start, **sections)

    run_distributed(train_and_save_all, 1, [values("run", 1)])
    changed = {"adam_beta1": 0.8, "adam_beta2": 0.5, "adam_eps": 1e-3}
    continued = [values(name, 2, **changed) for name in ("run", "next")]
    for groups in run_distributed(_options_of_groups, 1, continued)[0]:
        assert groups
        assert set(groups) == {((0.8, 0.5), 1e-3)}


def test_an_optimizer_of_another_kind_is_refused_before_a_rank_starts(make_values: MakeValues, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_distributed(train_and_save_all, 1, [make_values("pretrain", run, training={"train_steps": 1})])
    values = make_values("pretrain", run, training={"precision": "bf16"})
    with pytest.raises(ConfigError, match=r"training.precision: the optimizer of .* was saved with fp32, this run has"):
        plan_run(config_from_dict(values))
    start = {"init_from": str(run), "init_optimizer": True}
    muon = {"name": "muon"}
    values = make_values("pretrain", run, optimizer=muon)
    started = make_values("pretrain", tmp_path / "next", optimizer=muon, checkpoint=start)
    for refused in (values, started):
        with pytest.raises(
            ConfigError, match=r"optimizer.name: the optimizer of .* was saved with adamw, this run has m"
        ):
            plan_run(config_from_dict(refused))
    del started["checkpoint"]["init_optimizer"]
    plan_run(config_from_dict(started))
