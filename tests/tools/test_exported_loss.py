"""A run from the entry script to the folder: transformers' loss on the validation samples is the loop's."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from megatron_prealign.config import load_resolved
from megatron_prealign.data.blend import build_valid_datasets
from megatron_prealign.data.tokenizer import load_tokenizer
from megatron_prealign.platform import shut_down_distributed
from tests.workspace import MakeValues
from tools.convert_checkpoint import main

ENTRY = Path(__file__).parents[2] / "pretrain_prealign.py"
NUM_SAMPLES = 8  # eval_steps of global_batch_size


def train(values: dict[str, Any], path: Path) -> float:
    """Run the entry script and return the validation loss after the last step."""
    path.write_text(yaml.safe_dump(values))
    command = [sys.executable, str(ENTRY), "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = map(json.loads, (Path(values["training"]["run_path"]) / "metrics.jsonl").read_text().splitlines())
    last = [record for record in records if record["kind"] == "valid"][-1]
    assert last["step"] == values["training"]["train_steps"]
    return float(last["loss"]["en"])


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_the_loss_of_the_folder_is_the_validation_loss(
    architecture: str, make_values: MakeValues, tmp_path: Path
) -> None:
    model = {"architecture": architecture, "init_method_std": 0.2}
    model |= {"num_query_groups": None} if architecture == "gpt_neox" else {}
    training = {"eval_interval": 6, "eval_steps": 2}
    values = make_values("pretrain", tmp_path / "run", model=model, training=training, optimizer={"lr": 1e-2})
    expected = train(values, tmp_path / "config.yaml")

    assert main(["to-hf", "--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    shut_down_distributed()
    config = load_resolved(tmp_path / "run" / "config.yaml")
    tokenizer = load_tokenizer(tmp_path / "out")
    dataset = build_valid_datasets(config.data, tokenizer, seed=config.training.seed)["en"]
    samples = [dataset[index] for index in range(NUM_SAMPLES)]
    tokens, labels, mask = (
        torch.stack([sample[key] for sample in samples]) for key in ("tokens", "labels", "loss_mask")
    )
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(tokens).logits
    losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    assert float((losses * mask).sum() / mask.sum()) == pytest.approx(expected, abs=1e-4)
    # Far from that of even predictions, which a model could have with any weights in the wrong place.
    assert abs(expected - math.log(300)) > 0.1
