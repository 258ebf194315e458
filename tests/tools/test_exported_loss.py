"""A run from the entry script to the folder: what tools/evaluate.py measures there is what the loop measured."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from megatron_prealign.evaluation.folder import open_folder
from megatron_prealign.evaluation.kinds.validation_loss import EVALUATION, Options
from megatron_prealign.platform import shut_down_distributed
from tests.workspace import MakeValues
from tools.convert_checkpoint import main as convert
from tools.evaluate import main as evaluate

ENTRY = Path(__file__).parents[2] / "pretrain_prealign.py"


def train(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Run the entry script and return the record of the validation after the last step."""
    path.write_text(yaml.safe_dump(values))
    command = [sys.executable, str(ENTRY), "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = map(json.loads, (Path(values["training"]["run_path"]) / "metrics.jsonl").read_text().splitlines())
    last: dict[str, Any] = [record for record in records if record["kind"] == "valid"][-1]
    assert last["step"] == values["training"]["train_steps"]
    return last


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_the_folder_has_the_losses_and_the_retrieval_of_the_loop(
    architecture: str, workspace: Path, make_values: MakeValues, tmp_path: Path
) -> None:
    (tmp_path / "held_out.tsv").write_text("houses\thäuser\tde\ncats\tkatzen\tde\nq\tñ\tde\nmoons\tmonde\tde\n")
    model = {"architecture": architecture, "init_method_std": 0.2}
    model |= {"num_query_groups": None} if architecture == "gpt_neox" else {}
    training = {"eval_interval": 6, "eval_steps": 2}
    alignment = {"held_out_lexicon_paths": [str(tmp_path / "held_out.tsv")]}
    values = make_values(
        "pretrain", tmp_path / "run", model=model, training=training, optimizer={"lr": 1e-2}, alignment=alignment
    )
    expected = train(values, tmp_path / "config.yaml")
    assert convert(["to-hf", "--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    shut_down_distributed()

    (tmp_path / "tasks.yaml").write_text(
        f"- {{evaluation: validation_loss, config: {tmp_path / 'run' / 'config.yaml'}}}\n"
    )
    arguments = ["--model", str(tmp_path / "out"), "--tasks", str(tmp_path / "tasks.yaml")]
    arguments += ["--lexicon", str(workspace / "lexicon.tsv"), "--held-out-lexicon", str(tmp_path / "held_out.tsv")]
    assert evaluate([*arguments, "--output", str(tmp_path / "results.json")]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    found = results["tasks"]["validation_loss"]["results"]
    assert found.keys() == expected["loss"].keys() == {"en"}
    for name in ("loss", "switched_loss", "ordinary_loss"):
        assert found["en"][name] == pytest.approx(expected[name]["en"], abs=1e-4), name
    # Far from that of even predictions, which a model could have with any weights in the wrong place.
    assert abs(expected["loss"]["en"] - math.log(300)) > 0.1
    folder = open_folder(tmp_path / "out")
    with torch.no_grad():
        folder.model.get_output_embeddings().weight.zero_()
    options = Options(config=str(tmp_path / "run" / "config.yaml"))
    chance = EVALUATION.run(folder, options, lambda done, total, part="": None)
    for name in ("loss", "switched_loss", "ordinary_loss"):
        assert chance["en"][name] == pytest.approx(math.log(300), abs=1e-5), name
    assert results["retrieval"].keys() == expected["retrieval"].keys() == {"trained", "held_out"}
    for pair_set, pairs in expected["retrieval"].items():
        for name, value in pairs["en-de"].items():
            assert results["retrieval"][pair_set]["en-de"][name] == pytest.approx(value, abs=1e-4), (pair_set, name)
    assert 0 < min(expected["retrieval"]["trained"]["en-de"]["p_at_1"]) < 1


def test_wrong_configurations_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model:\n  layers: 4\n")
    (problem,) = EVALUATION.check(Options(config=str(tmp_path / "config.yaml")))
    assert "config.yaml:2: unknown key model.layers" in problem
    (tmp_path / "config.yaml").write_text("data:\n  blend:\n  - {prefix: gone, language: en}\n")
    (problem,) = EVALUATION.check(Options(config=str(tmp_path / "config.yaml")))
    assert "gone" in problem
    (tmp_path / "config.yaml").write_text("model:\n  num_layers: 4\n")
    (problem,) = EVALUATION.check(Options(config=str(tmp_path / "config.yaml")))
    assert "data.blend names no dataset;" in problem
