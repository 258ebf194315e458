"""What an export leaves when it is killed, what its card says, and what is refused on the way."""

import json
from pathlib import Path

import pytest
import torch

from megatron_prealign.checkpoint.huggingface import (
    export,
    export_checkpoint,
    import_folder,
    push_to_hub,
    read_results,
)
from megatron_prealign.checkpoint.huggingface.card import model_card
from megatron_prealign.checkpoint.tensors import CheckpointTensors
from megatron_prealign.config import BlendEntry, Config, DataConfig, ModelConfig
from megatron_prealign.dataset.manifest import read_manifest
from megatron_prealign.errors import CheckpointError
from tests.evaluation.folders import make_folder
from tools.convert_checkpoint import main

SHARDS = {"max_shard_size": "50KB", "verify": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imported")
    import_folder(make_folder(root / "source"), root / "checkpoint", verify=False)
    return root / "checkpoint"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_that_was_killed_goes_on(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_checkpoint(checkpoint, tmp_path / "whole", **SHARDS)
    written: list[str] = []
    write = export.write_safetensors

    def write_until_killed(path: Path, *arguments: object) -> None:
        if len(written) == 2:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "write_safetensors", write_until_killed)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(checkpoint, tmp_path / "out", **SHARDS)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(export, "write_safetensors", lambda *given: (written.append(given[0].name), write(*given)))
    export_checkpoint(checkpoint, tmp_path / "out", **SHARDS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(written) == len(set(written)) == len(list((tmp_path / "out").glob("*.safetensors")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_shards_of_other_options_are_not_taken_over(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "model_card", die)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(checkpoint, tmp_path / "out", **SHARDS)
    monkeypatch.undo()
    export_checkpoint(checkpoint, tmp_path / "out", dtype="bfloat16", **SHARDS)
    export_checkpoint(checkpoint, tmp_path / "fresh", dtype="bfloat16", **SHARDS)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_card_names_data_languages_configuration_and_results(workspace: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"perplexity": {"en": {"perplexity": 12.5}}, "retrieval": {}, "settings": {}}))
    blend = (
        BlendEntry(prefix=str(workspace / "data"), language="en", weight=0.7),
        BlendEntry(prefix=str(tmp_path / "gone"), language="de", weight=0.3),
    )
    config = Config(model=ModelConfig(vocab_size=300), data=DataConfig(blend=blend))
    card = model_card(config, "float32", read_results(results))
    assert "Languages: de, en." in card
    assert "| data | en | 0.7 |" in card
    assert read_manifest(workspace / "data").content_hash in card
    assert "| gone | de | 0.3 | no manifest |" in card
    assert '"perplexity": 12.5' in card
    assert "train_steps:" in card and "run_path" not in card


def test_bad_input_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text("{}")
    command = ["to-hf", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--no-verify"]
    assert main([*command, "--results", str(tmp_path / "results.json")]) == 2
    assert "holds neither perplexity nor retrieval" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_an_upload_that_fails_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    # The tests run with HF_HUB_OFFLINE.
    with pytest.raises(CheckpointError, match=r"not uploaded to somebody/model: .*is complete"):
        push_to_hub(tmp_path, "somebody/model")
    assert (tmp_path / "config.json").is_file()


def test_a_table_of_contents_that_runs_code_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="which is not allowed there"):
        CheckpointTensors(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_weight_is_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes((checkpoint / ".metadata").read_bytes())
    (tmp_path / "__0_0.distcp").write_bytes((checkpoint / "__0_0.distcp").read_bytes()[:50_000])
    weights = CheckpointTensors(tmp_path)
    with pytest.raises(CheckpointError, match=r"output_layer\.weight can't be read"):
        weights["output_layer.weight"]


def test_a_weight_that_was_read_can_be_changed_and_the_checkpoint_stays(checkpoint: Path) -> None:
    weights = CheckpointTensors(checkpoint)
    first = weights["output_layer.weight"]
    before = first.clone()
    first.zero_()
    assert before.any()
    assert torch.equal(weights["output_layer.weight"], before)
