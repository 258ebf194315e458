"""A run continued from a checkpoint, at its own layout or another, continues the same curve."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from megatron_prealign.checkpoint import folder
from megatron_prealign.errors import ConfigError
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import run_all_steps, train_and_save_all
from tests.workspace import MakeValues

Records = list[dict[str, Any]]
STAGES = ("pretrain", "align_init")
SHARDED = "use_distributed_optimizer"


@pytest.fixture(scope="module")
def whole(make_values: MakeValues, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Records]:
    """The steps of uninterrupted runs of one process."""
    folder = tmp_path_factory.mktemp("whole")
    configurations = [make_values(stage, folder / stage) for stage in STAGES]
    results = run_distributed(run_all_steps, 1, configurations, 6)[0]
    return {stage: result["steps"] for stage, result in zip(STAGES, results, strict=True)}


@pytest.mark.parametrize(
    ("first", "second", "tolerance"),
    [
        ((1, {}), (1, {}), 0.0),
        ((2, {"tensor_model_parallel_size": 2}), (2, {"pipeline_model_parallel_size": 2}), 1e-5),
        ((2, {"use_distributed_optimizer": True}), (1, {}), 1e-5),
        ((2, {"use_distributed_optimizer": True}), (2, {"tensor_model_parallel_size": 2}), 1e-5),
    ],
    ids=["same-layout", "tp2-to-pp2", "dp2-to-single", "dp2-to-tp2"],
)
def test_resume_continues_the_curve(
    first: Any, second: Any, tolerance: float, whole: dict[str, Records], make_values: MakeValues, tmp_path: Path
) -> None:
    schedule = {"lr_decay_steps": 6}
    (first_size, first_layout), (second_size, second_layout) = first, second
    # The two kinds of optimizer keep different state; a run stays with the one it began with.
    second_layout = {**second_layout, SHARDED: first_layout.get(SHARDED, False)}
    half = {"train_steps": 3}
    begun = [make_values(s, tmp_path / s, parallel=first_layout, training=half, schedule=schedule) for s in STAGES]
    ended = [make_values(s, tmp_path / s, parallel=second_layout, schedule=schedule) for s in STAGES]
    first_records = run_distributed(train_and_save_all, first_size, begun)[0]
    second_records = run_distributed(train_and_save_all, second_size, ended)[0]
    for stage, before, after in zip(STAGES, first_records, second_records, strict=True):
        _assert_same_curve(whole[stage], before + after, tolerance)
        checkpoints = tmp_path / stage / "checkpoints"
        assert json.loads((checkpoints / "step_0000006" / "state.json").read_text())["consumed_samples"] == 24
        assert (checkpoints / "latest").read_text().strip() == "step_0000006"


def _assert_same_curve(whole: Records, records: Records, tolerance: float) -> None:
    assert len(whole) == len(records)
    for step, (expected, record) in enumerate(zip(whole, records, strict=True), start=1):
        for name, value in expected.items():
            # How much padding there is depends on how the words are dealt out to data-parallel ranks.
            if name != "word_padding_ratio":
                assert record[name] == pytest.approx(value, rel=tolerance, abs=0), (step, name)


DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}


# Killed runs with dropout, of tests/faults, are at the other layouts.
@pytest.mark.parametrize(("world_size", "parallel"), [(1, {}), (2, {SHARDED: True})], ids=["single", "dp2"])
def test_dropout_goes_on_bit_for_bit(
    world_size: int, parallel: dict[str, Any], make_values: MakeValues, tmp_path: Path
) -> None:
    def values(name: str, steps: int) -> Any:
        training = {"train_steps": steps}
        sections = {"model": DROPOUT, "schedule": {"lr_decay_steps": 4}, "training": training, "parallel": parallel}
        return make_values("pretrain", tmp_path / name, **sections)

    # Each in processes of its own: what a run draws from is seeded once a process.
    whole, before, after = (
        run_distributed(train_and_save_all, world_size, [values(*run)])[-1][0]
        for run in (("whole", 4), ("parts", 2), ("parts", 4))
    )
    _assert_same_curve(whole, before + after, 0.0)


def _start(values: Any) -> dict[str, Any]:
    """Return where a run stands before its first step."""
    from megatron_prealign.testing.trainers import make_trainer

    trainer = make_trainer(values)
    moments = trainer.optimizer.optimizer.state.values()
    return {
        "step": trainer.state.step,
        "moments": sum(float(state["exp_avg"].norm()) for state in moments),
        "updates": {group.get("step", 0) for group in trainer.optimizer.param_groups},
        "rate": trainer.optimizer.param_groups[0]["lr"],
        "embedding": float(next(trainer.chunks[0].parameters()).norm()),
    }


def test_hand_over_takes_the_optimizer_only_if_told(make_values: MakeValues, tmp_path: Path) -> None:
    first = tmp_path / "align_init"
    run_distributed(train_and_save_all, 1, [make_values("align_init", first, training={"train_steps": 3})])
    starts = {}
    for told in (False, True):
        checkpoint = {"init_from": str(first), "init_optimizer": told}
        # Another rate and a warm-up: the schedule is the new run's, whatever the loaded optimizer says.
        overrides = {"optimizer": {"lr": 2e-3}, "schedule": {"lr_decay_style": "constant"}, "checkpoint": checkpoint}
        starts[told] = run_distributed(_start, 1, make_values("pretrain", tmp_path / str(told), **overrides))[0]
    assert {start["step"] for start in starts.values()} == {0}
    assert {start["rate"] for start in starts.values()} == {2e-3}
    assert starts[False]["embedding"] == starts[True]["embedding"]
    assert (starts[False]["moments"], starts[False]["updates"]) == (0, {0})
    assert starts[True]["moments"] > 0
    assert starts[True]["updates"] == {3}


@pytest.mark.parametrize("sharded", [False, True])
def test_a_continued_run_takes_up_a_changed_rate(sharded: bool, make_values: MakeValues, tmp_path: Path) -> None:
    constant, parallel = {"lr_decay_style": "constant"}, {SHARDED: sharded}
    run = tmp_path / "run"
    begun = make_values("pretrain", run, training={"train_steps": 2}, schedule=constant, parallel=parallel)
    run_distributed(train_and_save_all, 2, [begun])
    # From 0.18 on megatron-core finds the group that it loads by its rates too, in each kind of optimizer.
    changed = make_values("pretrain", run, optimizer={"lr": 5e-4}, schedule=constant, parallel=parallel)
    start = run_distributed(_start, 2, changed)[0]
    assert (start["step"], start["rate"], start["updates"]) == (2, 5e-4, {2})


def test_another_kind_of_optimizer_is_refused_before_a_rank_starts(make_values: MakeValues, tmp_path: Path) -> None:
    from megatron_prealign.config import config_from_dict
    from megatron_prealign.training.setup import plan_run

    run = tmp_path / "run"
    run_distributed(train_and_save_all, 1, [make_values("pretrain", run, training={"train_steps": 1})])
    sharded = {SHARDED: True}
    with pytest.raises(ConfigError, match=r"use_distributed_optimizer: the optimizer of .* was saved with False, this"):
        plan_run(config_from_dict(make_values("pretrain", run, parallel=sharded)))
    new = make_values(
        "pretrain", tmp_path / "new", parallel=sharded, checkpoint={"init_from": str(run), "init_optimizer": True}
    )
    with pytest.raises(ConfigError, match="use_distributed_optimizer"):
        plan_run(config_from_dict(new))
    del new["checkpoint"]["init_optimizer"]
    assert plan_run(config_from_dict(new)).init_from is not None


def test_another_lexicon_is_refused(make_values: MakeValues, workspace: Path, tmp_path: Path) -> None:
    from megatron_prealign.config import config_from_dict
    from megatron_prealign.training.setup import plan_run

    lexicon = tmp_path / "lexicon.tsv"
    lexicon.write_text((workspace / "lexicon.tsv").read_text())
    alignment = {"lexicon_paths": [str(lexicon)]}
    values = make_values("align_init", tmp_path / "run", training={"train_steps": 1}, alignment=alignment)
    run_distributed(train_and_save_all, 1, [values])
    assert plan_run(config_from_dict(values)).resume_from is not None
    lexicon.write_text(lexicon.read_text().replace("haus", "hausen"))
    with pytest.raises(ConfigError, match=r"alignment.lexicon_paths: .*step_0000001 was trained on another lexicon"):
        plan_run(config_from_dict(values))


def _start_error(values: Any) -> str:
    from megatron_prealign.testing.trainers import make_trainer

    try:
        make_trainer(values)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _save_nan(values: Any) -> None:
    from megatron_prealign.checkpoint.sharded import save_checkpoint
    from megatron_prealign.testing.trainers import make_trainer

    trainer = make_trainer(values)
    trainer.chunks[0].module.decoder.layers[1].mlp.linear_fc1.weight.data[3, 2] = float("nan")
    # A trainer would refuse to.
    save_checkpoint(trainer.config, trainer.chunks, trainer.optimizer, {"step": 0}, trainer.tokenizer_path)


def _save_nan_moment(values: Any) -> None:
    from megatron_prealign.platform.megatron.optimizer import torch_optimizers
    from megatron_prealign.testing.trainers import make_trainer

    trainer = make_trainer(values)
    trainer.train_step()
    state = next(iter(torch_optimizers(trainer.optimizer)[0].state.values()))
    state["exp_avg"].view(-1)[3] = float("nan")
    trainer.save()


@pytest.mark.parametrize("is_distributed", [False, True])
def test_nan_in_the_moments_is_told_from_nan_in_the_weights(
    is_distributed: bool, make_values: MakeValues, tmp_path: Path
) -> None:
    parallel = {"use_distributed_optimizer": is_distributed}
    values = make_values("pretrain", tmp_path / "run", parallel=parallel)
    run_distributed(_save_nan_moment, 1, values)
    expected = f"TrainingError: {tmp_path}/run/checkpoints/step_0000001: the optimizer's moments hold NaN; use another"
    assert run_distributed(_start_error, 1, values)[0].startswith(expected)


def test_a_start_from_damaged_weights_names_what_is_damaged(make_values: MakeValues, tmp_path: Path) -> None:
    damaged, poisoned = tmp_path / "damaged", tmp_path / "poisoned"
    run_distributed(train_and_save_all, 1, [make_values("pretrain", damaged, training={"train_steps": 1})])
    (shard,) = damaged.rglob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:100])
    run_distributed(_save_nan, 1, make_values("pretrain", poisoned))
    for start, expected in (
        (
            damaged,
            f"ConfigError: 2 problems:\n  - skipping {shard.parent}: {shard}: 100 bytes, but the manifest says ",
        ),
        (
            poisoned,
            f"TrainingError: {poisoned}/checkpoints/step_0000000: decoder.layers.1.mlp.linear_fc1.weight hold NaN",
        ),
    ):
        values = make_values("align_init", tmp_path / "run", checkpoint={"init_from": str(start)})
        assert run_distributed(_start_error, 1, values)[0].startswith(expected)
        assert not (tmp_path / "run" / "metrics.jsonl").exists()


def _start_point(values: Any) -> tuple[int, str]:
    """Return the step that a run starts from, and what this rank says about it."""
    from megatron_prealign.testing.trainers import make_trainer

    with contextlib.redirect_stderr(io.StringIO()) as said:
        trainer = make_trainer(values)
    return trainer.state.step, said.getvalue()


def test_a_flipped_bit_in_any_file_of_the_newest_checkpoint_is_found(make_values: MakeValues, tmp_path: Path) -> None:
    run, layout = tmp_path / "run", {"tensor_model_parallel_size": 2}
    for steps in (1, 2):
        values = make_values("pretrain", run, parallel=layout, training={"train_steps": steps})
        run_distributed(train_and_save_all, 2, [values])
    older, newer = folder.all_checkpoints(run)
    files = [path for path in newer.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert {path.name for path in files} >= {"__0_0.distcp", "__1_0.distcp", "common.pt", ".metadata", folder.STATE}
    large = [path for path in files if path.stat().st_size > 1 << 16]
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        first, second = run_distributed(_start_point, 2, values)
        assert (first[0], second[0]) == (1, 1), path
        assert f"WARNING: skipping {newer}: {path}: its content does not match the hash" in first[1]
        assert first[1].count("WARNING: skipping") == 1
        # The damage of small files is found before the report of the start, which then needs no correction.
        assert (f"Continuing from {older}, step 1 of 2" in first[1]) == (path in large)
        assert "WARNING" not in second[1]
        (aside,) = newer.parent.glob(f"{newer.name}.damaged-*")
        aside.rename(newer)
        path.write_bytes(content)
    # A start from the run's weights falls back in the same way.
    path = large[0]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    values = make_values("align_init", tmp_path / "next", parallel=layout, checkpoint={"init_from": str(run)})
    step, said = run_distributed(_start_point, 2, values)[0]
    assert step == 0
    assert f"WARNING: skipping {newer}: {path}: its content does not match the hash" in said
    assert f"Starting from the weights of {older}." in said
    path.write_bytes(content)
    shutil.rmtree(older)
    shard = newer / "__0_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    errors = run_distributed(_start_error, 2, values)
    assert all("no usable checkpoint is left" in error for error in errors)
    # At one's own risk: what was flipped is padding.
    unchecked = make_values("pretrain", run, parallel=layout, checkpoint={"verify": False})
    assert run_distributed(_start_point, 2, unchecked)[0][0] == 2


def _read_by_this_rank(values: Any) -> list[str]:
    """Return the parts of tensors that a rank reads from the disk when it continues a run."""
    from megatron_prealign.checkpoint.torch_dist import FileSystemReader
    from megatron_prealign.testing.trainers import make_trainer

    read: list[str] = []
    read_data = FileSystemReader.read_data

    def noted(self: Any, plan: Any, planner: Any) -> Any:
        tensors = [item for item in plan.items if item.type.name == "TENSOR"]
        read.extend(f"{item.storage_index} {tuple(item.storage_offsets)}" for item in tensors)
        return read_data(self, plan, planner)

    with mock.patch.object(FileSystemReader, "read_data", noted):
        make_trainer(values)
    return read


def _warnings_of_a_save(values: Any) -> list[str]:
    """Return what megatron-core warns of, and torch of gradients, while a rank trains and saves."""
    import logging
    import warnings

    said = io.StringIO()
    handler, logger = logging.StreamHandler(said), logging.getLogger("megatron.core")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train_and_save_all([values])
    finally:
        logger.removeHandler(handler)
    of_gradients = [str(warning.message) for warning in caught if ".grad attribute" in str(warning.message)]
    return [*said.getvalue().splitlines(), *of_gradients]


@pytest.mark.parametrize("sharded", [False, True])
def test_what_data_parallel_ranks_share_is_written_and_read_once(
    sharded: bool, make_values: MakeValues, tmp_path: Path
) -> None:
    values = make_values("pretrain", tmp_path / "run", parallel={SHARDED: sharded}, training={"train_steps": 1})
    assert run_distributed(_warnings_of_a_save, 2, values) == [[], []]
    first, second = run_distributed(_read_by_this_rank, 2, values)
    names = [*first, *second]
    assert len(set(names)) == len(names)
    assert any("optimizer.state.exp_avg_sq" in name for name in names)
    assert min(len(first), len(second)) > len(names) / 4
