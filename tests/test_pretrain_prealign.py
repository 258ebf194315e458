"""The entry script: bad input is refused at once, with one error and nothing written; a dry run writes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import pretrain_prealign
from megatron_prealign.checkpoint import folder
from megatron_prealign.checkpoint.manifest import write_manifest
from megatron_prealign.config import config_from_dict, dump_config
from megatron_prealign.errors import TrainingError
from megatron_prealign.text.tokenizer import load_tokenizer
from tests.dataset.baked import random_documents, write_baked
from tests.workspace import MakeValues


@pytest.fixture
def values(make_values: MakeValues, tmp_path: Path) -> dict[str, dict[str, Any]]:
    return make_values("align_init", tmp_path / "run")


def _main(values: dict[str, dict[str, Any]], tmp_path: Path, *options: str) -> int:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    return pretrain_prealign.main(["--config", str(tmp_path / "config.yaml"), *options])


def _refused(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert _main(values, tmp_path, *options) == 2
    assert not (tmp_path / "run").exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


def test_missing_tokenizer(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values["data"]["tokenizer_path"] = str(tmp_path / "nowhere")
    assert "nowhere" in _refused(values, tmp_path, capsys)


def test_malformed_lexicon_line(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lexicon = tmp_path / "broken.tsv"
    lexicon.write_text("house\thaus\tde\t1.0\ndog hund\n")
    values["alignment"]["lexicon_paths"] = [str(lexicon)]
    assert f"{lexicon}:2" in _refused(values, tmp_path, capsys)


def test_world_size_that_the_layout_does_not_divide(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    error = _refused(values, tmp_path, capsys, "--parallel.tensor_model_parallel_size", "2")
    assert "tensor_model_parallel_size" in error


def test_sequence_longer_than_the_model(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = _refused(values, tmp_path, capsys, "--data.seq_length", "65")
    assert "max_position_embeddings" in error


def test_vocabulary_of_another_bake(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = write_baked(tmp_path / "other", random_documents(np.random.default_rng(0), 40, 200, 100), 200)
    values["data"]["blend"][0]["prefix"] = prefix
    assert "vocabulary of 200" in _refused(values, tmp_path, capsys)


def test_start_from_nothing(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = _refused(values, tmp_path, capsys, "--checkpoint.init_from", str(tmp_path / "stage1"))
    assert "stage1" in error


def _save_checkpoint(run_path: Path, values: dict[str, Any], step: int) -> None:
    """Save all of a checkpoint but its weights."""
    temporary = folder.begin(folder.step_path(run_path, step))
    (temporary / "metadata.json").write_text("{}")
    (temporary / folder.STATE).write_text(f'{{"step": {step}}}')
    (temporary / folder.CONFIG).write_text(dump_config(config_from_dict(values)))
    write_manifest(temporary, {})
    folder.commit(temporary, folder.step_path(run_path, step), 2)


def test_continuing_with_other_data_or_too_few_steps(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {**values["model"], "vocab_size": 300}
    _save_checkpoint(tmp_path / "run", {**values, "model": model}, step=4)
    changed = ["--data.seq_length", "16", "--training.seed", "7", "--training.train_steps", "3"]
    assert _main(values, tmp_path, *changed) == 2
    error = capsys.readouterr().err
    for field in ("data.seq_length", "training.seed", "training.train_steps"):
        assert field in error
    assert _main(values, tmp_path, "--training.train_steps", "4", "--dry-run") == 0
    assert "Nothing to do" in capsys.readouterr().err


def _bake(prefix: Path, values: Any, switch_ratio: float) -> str:
    """Write a dataset for the run's tokenizer; return its prefix."""
    tokenizer = load_tokenizer(values["data"]["tokenizer_path"])
    documents = random_documents(np.random.default_rng(0), 40, tokenizer.vocab_size, 100, switch_ratio)
    return write_baked(prefix, documents, tokenizer.vocab_size, tokenizer.fingerprint)


def test_continuing_with_other_switches(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values["data"]["blend"][0]["prefix"] = _bake(tmp_path / "plain", values, switch_ratio=0)
    online = {"codeswitch": "online", "codeswitch_lexicon_paths": values["alignment"]["lexicon_paths"]}
    saved = {**values, "model": {**values["model"], "vocab_size": 300}, "data": {**values["data"], **online}}
    _save_checkpoint(tmp_path / "run", saved, step=4)
    # Baked or online, one position is not the other's.
    assert _main(values, tmp_path) == 2
    assert "data.codeswitch:" in capsys.readouterr().err
    values["data"] |= online
    assert _main(values, tmp_path, "--dry-run") == 0
    capsys.readouterr()
    assert _main(values, tmp_path, "--data.codeswitch_ratios", "[0.2,0.1,0]", "--data.codeswitch_seed", "2") == 2
    error = capsys.readouterr().err
    assert "data.codeswitch_ratios:" in error and "this run has (0.2, 0.1, 0.0); keep that value" in error
    assert "data.codeswitch_seed:" in error


def test_checkpoints_that_are_damaged_or_foreign(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _save_checkpoint(tmp_path / "stage1", {"model": {**values["model"], "vocab_size": 300}}, step=1)
    checkpoint = folder.step_path(tmp_path / "stage1", 1)
    (checkpoint / folder.CONFIG).write_text("model: {}\n")
    start = ("--checkpoint.init_from", str(tmp_path / "stage1"))
    assert f"{checkpoint / folder.CONFIG}: 10 bytes, but the manifest says" in _refused(
        values, tmp_path, capsys, *start
    )
    (checkpoint / folder.CONFIG).write_text("modules: {size: 3}\n")
    error = _refused(values, tmp_path, capsys, *start, "--checkpoint.verify", "false")
    assert f"{checkpoint / folder.CONFIG}" in error
    assert "modules" in error
    _save_checkpoint(tmp_path / "used", {**values, "model": {**values["model"], "vocab_size": 300}}, step=1)
    (folder.step_path(tmp_path / "used", 1) / folder.STATE).write_text('{"step": "1", "epoch": 3}')
    options = ["--training.run_path", str(tmp_path / "used"), "--checkpoint.verify", "false"]
    assert "not the counters of a run: step (Input should be a valid integer), epoch" in _refused(
        values, tmp_path, capsys, *options
    )
    for stored, wrong in (
        ('{"step": 2}', "step 2 does not match the folder's name"),
        ('{"step": 1, "lm_tokens": -1}', "not the counters of a run: lm_tokens (Input should be"),
        ('{"step": 1, "best_retrieval": 5.0}', "not the counters of a run: best_retrieval (Input should be"),
        ('{"step": 1, "recent_losses": [1e300]}', "not the counters of a run: recent_losses.0 (Input should"),
    ):
        (folder.step_path(tmp_path / "used", 1) / folder.STATE).write_text(stored)
        assert f"state.json: {wrong}" in _refused(values, tmp_path, capsys, *options)


def test_run_folder_below_a_file(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    error = _refused(values, tmp_path, capsys, "--training.run_path", str(tmp_path / "file" / "run"))
    assert "is a file" in error


def test_environment_that_torchrun_did_not_set(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")
    assert "WORLD_SIZE" in _refused(values, tmp_path, capsys)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_RANK", "z")
    assert "LOCAL_RANK='z' in the environment is not a number" in _refused(values, tmp_path, capsys)
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("RANK", "1")
    assert _main(values, tmp_path) == 2
    assert "RANK=1" in capsys.readouterr().err
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "99999")):
        monkeypatch.setenv(name, value)
    error = _refused(values, tmp_path, capsys)
    assert "MASTER_ADDR is missing in the environment, which has MASTER_PORT, RANK, WORLD_SIZE; start with" in error
    assert "MASTER_PORT='99999' in the environment is not a port" in error
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("MASTER_PORT")
    assert "RANK is missing" in _refused(values, tmp_path, capsys)
    # Of a run on other machines.
    assert _main(values, tmp_path, "--dry-run") == 0


def test_start_from_another_model(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _save_checkpoint(tmp_path / "stage1", {"model": {"hidden_size": 64}}, step=1)
    error = _refused(values, tmp_path, capsys, "--checkpoint.init_from", str(tmp_path / "stage1"))
    assert "model.hidden_size" in error


def test_all_problems_at_once(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values["training"]["train_step"] = 5
    values["model"]["hidden_size"] = "wide"
    error = _refused(values, tmp_path, capsys, "--data.seq_length", "65")
    assert "train_steps" in error  # the near miss
    assert "hidden_size" in error
    assert "max_position_embeddings" in error


def test_dry_run_prints_the_arithmetic_and_writes_nothing(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(values, tmp_path, "--dry-run") == 0
    assert "tokens per step" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_help_does_not_wait_for_torch() -> None:
    script = "import sys; sys.argv = ['x', '--help']\ntry:\n  import pretrain_prealign; pretrain_prealign.main()\n"
    script += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'megatron.core' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "--training.train_steps" in result.stdout or "--training.train-steps" in result.stdout


def test_a_rank_that_fails_alone_says_so_itself(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise TrainingError("the alignment loss is not finite")

    monkeypatch.setattr(pretrain_prealign, "train", fail)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert _main(values, tmp_path) == 3
    assert capsys.readouterr().err == "error: rank 1: the alignment loss is not finite\n"


def test_a_validation_split_without_a_sample_is_refused_before_anything_is_made(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values["data"]["split"] = "99999,0.0001,0"
    values["training"]["eval_interval"] = 2
    assert "language en: " in (error := _refused(values, tmp_path, capsys)) and "has no full sample" in error
    assert not (tmp_path / "run").exists()


def test_rank_0_speaks_before_the_others_end(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(pretrain_prealign.time, "sleep", slept.append)
    monkeypatch.setattr(pretrain_prealign.signal, "signal", lambda *_: None)
    values["model"]["hidden_size"] = 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in (("0", []), ("1", [15.0])):
        monkeypatch.setenv("RANK", rank)
        assert "--model.hidden_size must be at least 1" in _refused(values, tmp_path, capsys)
        assert slept == expected


def test_lexicons_that_translate_into_their_own_language_or_hold_nothing_out(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values["alignment"]["held_out_lexicon_paths"] = values["alignment"]["lexicon_paths"]
    values["training"]["eval_interval"] = 1
    assert "lexicon.tsv: every word is also trained on; hold some out" in _refused(values, tmp_path, capsys)
    values["alignment"]["source_language"] = "de"
    assert "lexicon.tsv: translations into de, which is alignment.source_language" in _refused(values, tmp_path, capsys)


def test_paths_that_no_file_system_has(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    error = _refused(values, tmp_path, capsys, "--training.run_path", str(tmp_path / "link"))
    assert f"training.run_path {tmp_path / 'link'}: a broken link; remove it, or name another folder" in error
    for option in ("data.tokenizer_path", "checkpoint.init_from", "alignment.lexicon_paths"):
        assert f"--{option}" in _refused(values, tmp_path, capsys, f"--{option}", "x" * 300)


def test_a_file_where_the_checkpoints_go(values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    files = ("metrics.jsonl", "config.yaml", "run.lock", "run.holder", "exit.json")
    for name in files:
        (tmp_path / "run" / name).mkdir()
    assert _main(values, tmp_path) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/run/checkpoints: expected a folder at this path" in error
    for name in files:
        assert f"{tmp_path}/run/{name}: expected a file at this path" in error
    (tmp_path / "run" / "checkpoints").unlink()
    (tmp_path / "run" / "checkpoints" / "latest").mkdir(parents=True)
    assert _main(values, tmp_path) == 2
    assert f"{tmp_path}/run/checkpoints/latest: expected a file at this path" in capsys.readouterr().err
    (tmp_path / "run" / "checkpoints" / "latest").rmdir()
    (tmp_path / "run" / "checkpoints").rmdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "nowhere")
    assert _main(values, tmp_path) == 2
    assert f"{tmp_path}/run/checkpoints: expected a folder at this path" in capsys.readouterr().err


def test_a_lexicon_for_switches_while_training_is_read_before_anything_is_made(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lexicon = tmp_path / "switches.tsv"
    lexicon.write_text("house\thaus\tde\t1.0\ndog hund\n")
    values["data"] |= {"codeswitch": "online", "codeswitch_lexicon_paths": [str(lexicon)]}
    assert f"{lexicon}:2" in _refused(values, tmp_path, capsys)
    values["data"]["blend"][0]["prefix"] = _bake(tmp_path / "switched", values, switch_ratio=0.3)
    assert "data.codeswitch online needs a bake without" in _refused(values, tmp_path, capsys)


def test_the_keyboard_ends_it_without_a_traceback(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr("megatron_prealign.platform.initialize_distributed", interrupt)
    assert _main(values, tmp_path) == 130
    assert capsys.readouterr().err.endswith("error: interrupted; the same command resumes from the last checkpoint\n")
    assert json.loads((run / "exit.json").read_text()) == {"exit_code": 130, "cause": "Ctrl+C"}


def test_a_rank_that_refuses_its_data_leaves_a_note_for_the_restart(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise TrainingError("unfit")

    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr("megatron_prealign.platform.initialize_distributed", fail)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _main(values, tmp_path) == 3
    assert json.loads((run / "exit.json").read_text()) == {"exit_code": 3, "cause": "unfit"}
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    capsys.readouterr()
    assert _main(values, tmp_path) == 3
    assert capsys.readouterr().err == ""


def test_an_empty_name_of_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain_prealign.main(["--config", ""]) == 2
    assert "--config needs a YAML file; write --config FILE" in capsys.readouterr().err


def test_indices_of_datasets_are_hashed_once_a_host(
    values: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = _bake(tmp_path / "plain", values, switch_ratio=0)
    values["data"]["blend"][0]["prefix"] = prefix
    index = Path(f"{prefix}.idx")
    content = bytearray(index.read_bytes())
    content[34 + 40 * 4 + 8] ^= 1  # where the second of 40 sequences begins
    index.write_bytes(content)
    assert f"{index}: its content does not match the hash" in _refused(values, tmp_path, capsys)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _main(values, tmp_path, "--dry-run") == 0
    index.write_bytes(bytes(content[:-1]) + b"\1")
    capsys.readouterr()
    assert f"{index}: not a dataset index (inconsistent)" in _refused(values, tmp_path, capsys)
