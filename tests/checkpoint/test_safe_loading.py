"""A checkpoint that somebody else sent runs nothing, wherever in it the code hides and whatever its manifest says."""

import dataclasses
import enum
import io
import os
import pickle
import shutil
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_prealign.checkpoint.folder import newest_checkpoint
from megatron_prealign.checkpoint.manifest import write_manifest
from megatron_prealign.checkpoint.safe_pickle import (
    check_extra_states,
    load_plain,
    pickled_states_allowed,
    read_metadata,
)
from megatron_prealign.errors import CheckpointError
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer, train_and_save_all
from tests.workspace import MakeValues


class Evil:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


class Reached:
    """Takes an attribute of something else than an enumeration wherever it is unpickled."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return getattr, (self.value, "__reduce__")


@pytest.fixture(scope="module")
def sound(make_values: MakeValues, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one step."""
    run = tmp_path_factory.mktemp("sound") / "run"
    run_distributed(train_and_save_all, 1, [make_values("pretrain", run, training={"train_steps": 1})])
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    return checkpoint


def _in_common(checkpoint: Path, evil: Evil) -> None:
    torch.save({**torch.load(checkpoint / "common.pt"), "iteration": evil}, checkpoint / "common.pt")


def _in_metadata(checkpoint: Path, evil: Evil) -> None:
    metadata = read_metadata(checkpoint / ".metadata")
    metadata.planner_data = evil
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def _in_object(checkpoint: Path, evil: Any) -> None:
    """Put something in the place of an object beside the tensors."""
    metadata = read_metadata(checkpoint / ".metadata")
    index = next(index for index in metadata.storage_data if "_extra_state" in index.fqn)
    content = io.BytesIO()
    torch.save([evil], content)
    place = metadata.storage_data[index]
    with (checkpoint / place.relative_path).open("ab") as file:
        offset = file.tell()
        file.write(content.getvalue())
    metadata.storage_data[index] = dataclasses.replace(place, offset=offset, length=len(content.getvalue()))
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def _in_fp8_state(checkpoint: Path, evil: Evil) -> None:
    _in_object(checkpoint, torch.frombuffer(bytearray(pickle.dumps({"recipe": evil})), dtype=torch.uint8))


def _start_errors(configurations: list[Any]) -> list[str]:
    errors = []
    for values in configurations:
        try:
            make_trainer(values)
            errors.append("no error")
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


PLACES: dict[str, tuple[Callable[[Path, Evil], None], str]] = {
    "common": (
        _in_common,
        "common.pt: damaged, or it holds more than tensors and plain values (Trying to load unsupported",
    ),
    "metadata": (_in_metadata, ".metadata: not the metadata of a torch_dist checkpoint (it names posix.mkdir, which"),
    "object": (_in_object, "_extra_state/shard_0_4: damaged, or it holds more than tensors and plain values ("),
    "fp8": (
        _in_fp8_state,
        "_extra_state is not a scaling state of fp8: it names posix.mkdir, which is not allowed",
    ),
}


class _AsPython3112(pickle.Pickler):
    """Writes members of enumerations as Python 3.11.0 to 3.11.3 does."""

    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, enum.Enum) else NotImplemented


def test_metadata_of_early_python_3_11_is_read(sound: Path, tmp_path: Path) -> None:
    metadata = read_metadata(sound / ".metadata")
    with (tmp_path / ".metadata").open("wb") as file:
        _AsPython3112(file).dump(metadata)
    assert b"getattr" in (tmp_path / ".metadata").read_bytes()
    assert read_metadata(tmp_path / ".metadata") == metadata
    reached = pickle.dumps(Reached(metadata.storage_data))
    (tmp_path / ".metadata").write_bytes(reached)
    with pytest.raises(CheckpointError, match=r"it takes '__reduce__' of .*, which is not allowed there"):
        read_metadata(tmp_path / ".metadata")


def test_nothing_is_run(sound: Path, make_values: MakeValues, tmp_path: Path) -> None:
    continued, started = [], []
    for name, (hide, _) in PLACES.items():
        checkpoint = tmp_path / name / "checkpoints" / sound.name
        shutil.copytree(sound, checkpoint)
        hide(checkpoint, Evil(tmp_path / f"{name}-ran"))
        write_manifest(checkpoint, {})
        continued.append(make_values("pretrain", tmp_path / name))
        started.append(make_values("pretrain", tmp_path / "new", checkpoint={"init_from": str(checkpoint)}))
    started.append(make_values("pretrain", tmp_path / "new", checkpoint={"init_from": str(sound)}))
    *errors, none = run_distributed(_start_errors, 1, continued + started)[0]
    assert none == "no error"
    for index, error in enumerate(errors):
        name, (_, expected) = list(PLACES.items())[index % len(PLACES)]
        assert error.startswith("CheckpointError: "), (name, error)
        assert expected in error, (name, error)
        assert not (tmp_path / f"{name}-ran").exists()


def test_the_traps_would_snap(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "plain")))
    content = io.BytesIO()
    torch.save([Evil(tmp_path / "saved")], content)
    content.seek(0)
    torch.load(content, weights_only=False)
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "saved"}
    content.seek(0)
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        load_plain(content, tmp_path)


def test_the_scaling_state_of_fp8_is_taken_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformer Engine pickles a dictionary of its recipe, a named tuple and tensors."""
    recipe = types.ModuleType("transformer_engine.common.recipe")
    delayed = dataclasses.make_dataclass("DelayedScaling", [("margin", int)])
    delayed.__module__ = recipe.__name__
    recipe.DelayedScaling = delayed  # type: ignore[attr-defined]
    for name in ("transformer_engine", "transformer_engine.common", recipe.__name__):
        monkeypatch.setitem(sys.modules, name, recipe)
    state = {"recipe": delayed(0), "scale_fwd": torch.ones(3), "extra_fp8_variables": OrderedDict(num_gemms=1)}

    def extra(value: Any) -> dict[str, Any]:
        return {"a._extra_state": torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)}

    check_extra_states(extra(state), tmp_path)
    check_extra_states({"a._extra_state": None, "b._extra_state": torch.empty(0), "weight": torch.ones(1)}, tmp_path)
    nested = io.BytesIO()
    torch.save(Evil(tmp_path / "ran"), nested)
    for bad in ({**state, "recipe": Evil(tmp_path / "ran")}, _Loads(nested.getvalue())):
        with pytest.raises(CheckpointError, match=r"a\._extra_state is not a scaling state of fp8"):
            check_extra_states(extra(bad), tmp_path)
    assert not (tmp_path / "ran").exists()


class _Loads:
    """Has its content read with torch.load when it is unpickled, as a tensor's storage does."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.content,)


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_pickled_extra_states_are_allowed_around_the_load_only(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with pytest.raises(KeyError), pickled_states_allowed():
        assert os.environ[name] == "1"
        raise KeyError
    assert os.environ.get(name) == before
