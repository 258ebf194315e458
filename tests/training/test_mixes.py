"""Runs whose mix changes, or that grow longer, go on in each dataset where they stood, at any layout."""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.config import config_from_dict
from megatron_prealign.dataset.mix import read_datasets
from megatron_prealign.errors import ConfigError
from megatron_prealign.testing import run_distributed
from tests.workspace import MakeValues

Run = tuple[dict[int, tuple[int, tuple[int, ...]]], dict[str, Any]]
"""Of each sample of a run its language and tokens, by its position; and the state of the run at its end."""


def _train(values: Any) -> Run:
    """Train to the end, saves included."""
    from megatron_prealign.platform.agreement import from_all_ranks
    from megatron_prealign.testing.trainers import make_trainer

    trainer = make_trainer(values)
    draw, seen = trainer.stage.next_passes, {}

    def draw_and_note(state: Any) -> Any:
        passes = draw(state)
        for batch in passes[-1].microbatches:
            for row, sample in enumerate(batch["sample"].tolist()):
                seen[sample] = (int(batch["loss_group"][row, 0]) // 2, tuple(batch["tokens"][row].tolist()))
        return passes

    trainer.stage.next_passes = draw_and_note  # type: ignore[method-assign]
    trainer.train()
    return {k: v for found in from_all_ranks(seen) for k, v in found.items()}, trainer.state.to_dict()


@pytest.fixture(scope="module")
def sources(two_languages: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Three datasets, of a language each, so that a sample tells its dataset."""
    return {name: {**entry, "language": name} for name, entry in zip("abc", two_languages, strict=True)}


@pytest.mark.slow
def test_a_changed_mix_goes_on_where_each_dataset_stood(
    sources: dict[str, dict[str, Any]], make_values: MakeValues, tmp_path: Path
) -> None:
    a, b, c = (sources[name] for name in "abc")

    def values(run: str, blend: list[dict[str, Any]], steps: int, num_workers: int = 0) -> Any:
        data = {"blend": blend, "seq_length": 64, "num_workers": num_workers}
        training = {"train_steps": steps, "global_batch_size": 8}
        return make_values("pretrain", tmp_path / run, data=data, training=training)

    mixes = [
        ([{**a, "weight": 3.0}, b], 4),  # 24 of a, 8 of b
        ([a, {**b, "weight": 1.5}, {**c, "weight": 1.5}], 8),  # weights changed, c is new: 8, 12, 12
        ([c, a], 10),  # b left: 8, 8
        ([a, b, c], 16),  # b is back; the run grew: 16 each
    ]
    seen, _ = run_distributed(_train, 1, values("one", *mixes[0]))[0]
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    # One process, and two that have others read for them, see the same; then the two go on, and one in their place.
    alone = run_distributed(_train, 1, values("one", *mixes[1]))[0]
    second, _ = pair = run_distributed(_train, 2, values("two", *mixes[1], num_workers=2))
    assert pair == [alone, alone]
    third = run_distributed(_train, 2, values("two", *mixes[2]))[0]
    fourth = run_distributed(_train, 1, values("two", *mixes[3], num_workers=1))[0]
    for more, _ in (second, third, fourth):
        assert not seen.keys() & more.keys()
        seen |= more
    state = fourth[1]
    assert sorted(seen) == list(range(16 * 8))
    keys = _keys(values("one", [a, b, c], 16))
    assert state["positions"] == {keys["a"]: 24 + 8 + 8 + 16, keys["b"]: 8 + 12 + 16, keys["c"]: 12 + 8 + 16}
    assert [mix["start"] for mix in state["mixes"]] == [0, 32, 64, 80]
    # Each dataset was read in its own order, from its first sample on, whatever was drawn between.
    drawn = defaultdict(list)
    for position in sorted(seen):
        # Languages are numbered as the mix of the time names them.
        blend = next(blend for blend, steps in mixes if position < steps * 8)
        number, tokens = seen[position]
        drawn[blend[number]["language"]].append(tokens)
    for name, tokens in drawn.items():
        alone = _own_order(values("unused", [sources[name]], 16), len(tokens))
        assert tokens == alone
        per_epoch = (_num_tokens(values("unused", [sources[name]], 16)) - 1) // 64
        for start in range(0, len(tokens), per_epoch):
            epoch = tokens[start : start + per_epoch]
            assert len(set(epoch)) == len(epoch), "no sample comes twice in an epoch"


def _keys(values: Any) -> dict[str, str]:
    return {
        dataset.language: dataset.key for entry in read_datasets(config_from_dict(values).data) for dataset in entry
    }


def _num_tokens(values: Any) -> int:
    return read_datasets(config_from_dict(values).data)[0][0].num_tokens


def _own_order(values: Any, num_samples: int) -> list[tuple[int, ...]]:
    """Return the first samples of the only dataset of a configuration."""
    from megatron_prealign.dataset.blend import build_train_dataset
    from megatron_prealign.text.tokenizer import load_tokenizer

    config = config_from_dict(values)
    tokenizer = load_tokenizer(config.data.tokenizer_path)
    dataset = build_train_dataset(config.data, tokenizer, num_samples=num_samples, seed=config.training.seed)
    return [tuple(dataset[index]["tokens"].tolist()) for index in range(num_samples)]


def test_a_longer_run_begins_as_the_shorter_one_and_rewinds_leave_positions_alone(
    sources: dict[str, dict[str, Any]], make_values: MakeValues, tmp_path: Path
) -> None:
    def values(run: str, steps: int) -> Any:
        blend = [{**sources["a"], "weight": 2.0}, sources["b"]]
        return make_values("pretrain", tmp_path / run, data={"blend": blend}, training={"train_steps": steps})

    whole, whole_state = run_distributed(_train, 1, values("whole", 6))[0]
    begun, _ = run_distributed(_train, 1, values("parts", 3))[0]
    rest, state = run_distributed(_rewind_and_train, 1, values("parts", 6))[0]
    assert begun | rest == whole
    assert state["positions"] == whole_state["positions"]
    assert state["rewinds"] == 1
    assert len(state["mixes"]) == 1


def _rewind_and_train(values: Any) -> Run:
    """Train; after the first step the weights go back to the newest checkpoint, the data goes on."""
    from megatron_prealign.training import loop

    def train_step(trainer: Any) -> Any:
        norm = step(trainer)
        if trainer.state.step == 4:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(trainer.metrics, "say", said.append)
                trainer.rewind()
        return norm

    said: list[str] = []
    step = loop.Trainer.train_step
    loop.Trainer.train_step = train_step  # type: ignore[method-assign]
    outcome = _train(values)
    newest = f"{values['training']['run_path']}/checkpoints/step_0000003"
    assert said == [f"step 4: weights restored from {newest}; the data continues"]
    return outcome


def test_positions_that_do_not_follow_and_mixes_that_run_out_are_refused(
    sources: dict[str, dict[str, Any]], make_values: MakeValues, tmp_path: Path
) -> None:
    from megatron_prealign.training.setup import describe_start, plan_run

    def plan(steps: int, **entry: Any) -> Any:
        blend = [{**sources["a"], **entry}, sources["b"]]
        training = {"train_steps": steps}
        return config_from_dict(make_values("pretrain", tmp_path / "run", data={"blend": blend}, training=training))

    with pytest.raises(ConfigError, match=r"blend\[0\] .*: tokens 900,000 are .* epochs of its [\d,]+ training tokens"):
        plan_run(plan(100_000, tokens=900_000))
    data = {"blend": [sources["a"], sources["b"]], "max_epochs": 1.0}
    endless = make_values("pretrain", tmp_path / "run", data=data, training={"train_steps": 10_000})
    with pytest.raises(
        ConfigError, match=r"the mix runs out [\d,]+ tokens, that is [\d,]+ steps, before the last step"
    ):
        plan_run(config_from_dict(endless))
    assert torch.distributed.is_initialized() is False
    table = describe_start(plan_run(plan(10, tokens=640)))
    assert " a         50.00%  640 " in table
    assert "Starting from fresh weights." in table
