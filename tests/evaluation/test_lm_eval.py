"""lm-evaluation-harness on an exported folder, offline: a multiple-choice task in the shape of XCOPA, in a file."""

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_prealign.checkpoint.huggingface import export_checkpoint, import_folder
from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import open_folder
from megatron_prealign.evaluation.kinds.lm_eval import EVALUATION, Options
from megatron_prealign.platform import shut_down_distributed
from tests.evaluation.folders import make_folder

TOOL = Path(__file__).parents[2] / "tools" / "evaluate.py"
# Premise, question, choices, label: as XCOPA has them.
DOCUMENTS = [
    ("The man turned on the tap.", "effect", "The toilet filled with water.", "Water flowed from the spout.", 1),
    ("The girl found a bug in her cereal.", "effect", "She poured milk in the bowl.", "She lost her appetite.", 1),
    ("The pond froze over.", "cause", "The winter was cold.", "The ducks had flown away.", 0),
    ("Der Mann fiel hin.", "cause", "Er rutschte auf dem Eis aus.", "Er trank ein Glas Wasser.", 0),
    ("Das Licht ging aus.", "effect", "Wir zündeten eine Kerze an.", "Wir wuschen das Auto.", 0),
    ("Il a plu toute la nuit.", "effect", "Le soleil a brûlé l'herbe.", "La rue est inondée.", 1),
    ("那个女孩很饿。", "effect", "她吃了一碗面。", "她卖了她的车。", 0),
    ("Он опоздал на поезд.", "cause", "Он проспал.", "Он купил новую книгу.", 0),
]
JOINT = {"cause": "because", "effect": "therefore"}
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{premise[:-1]}}}} {{{{'because' if question == 'cause' else 'therefore'}}}}"
doc_to_choice: "{{{{[choice1, choice2]}}}}"
doc_to_target: label
metric_list:
  - metric: acc
"""


def expected_accuracy(folder: Path, documents: list[tuple[str, str, str, str, int]]) -> float:
    """Return the share of documents whose right choice is the likelier continuation, read as transformers reads it."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    num_right = 0
    for premise, question, *choices, label in documents:
        scores = []
        for choice in choices:
            context = f"{premise[:-1]} {JOINT[question]}"
            start = len(tokenizer(context)["input_ids"])
            ids = torch.tensor(tokenizer(f"{context} {choice}")["input_ids"])
            with torch.inference_mode():
                predicted = model(ids[None]).logits[0].log_softmax(-1)
            scores.append(float(predicted[:-1].gather(1, ids[1:, None])[start - 1 :].sum()))
        num_right += scores.index(max(scores)) == label
    return num_right / len(documents)


def write_task(folder: Path, name: str, documents: list[tuple[str, str, str, str, int]]) -> None:
    """Write a task of lm-evaluation-harness and its documents."""
    fields = ("premise", "question", "choice1", "choice2", "label")
    lines = [json.dumps(dict(zip(fields, document, strict=True))) for document in documents]
    (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task = TASK.format(name=name, path=folder / f"{name}.jsonl")
    (folder / f"{name}.yaml").write_text(task, encoding="utf-8")


def draw_documents(count: int) -> list[tuple[str, str, str, str, int]]:
    """Return documents of drawn words whose right choice is drawn."""
    words = random.Random(3)
    sample = ("tap", "bug", "pond", "ice", "light", "rain", "girl", "train")
    return [
        (f"The {words.choice(sample)} was there.", "effect", *words.sample(sample, 2), words.randrange(2))
        for _ in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("adds_bos", [False, True], ids=["plain", "begun"])
def test_a_local_task_is_scored_on_an_exported_folder_offline(adds_bos: bool, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra eval)")
    shape = {"num_key_value_heads": 2, "max_position_embeddings": 256}
    source = make_folder(tmp_path / "source", adds_bos=adds_bos, **shape)
    import_folder(source, tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "exported")
    shut_down_distributed()
    (tmp_path / "task").mkdir()
    write_task(tmp_path / "task", "local_xcopa", DOCUMENTS)
    drawn = draw_documents(400)
    write_task(tmp_path / "task", "random_labels", drawn)
    (tmp_path / "tasks.yaml").write_text(
        f"- {{evaluation: lm_eval, tasks: [local_xcopa, random_labels], include_path: {tmp_path / 'task'}}}\n"
    )

    command = [
        sys.executable,
        str(TOOL),
        "--model",
        str(tmp_path / "exported"),
        "--tasks",
        str(tmp_path / "tasks.yaml"),
    ]
    command += ["--output", str(tmp_path / "results.json")]
    environment = os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "local_xcopa acc" in done.stdout
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["tasks"]["lm_eval"]["results"]
    expected = expected_accuracy(tmp_path / "exported", DOCUMENTS)
    assert results["local_xcopa"]["acc"] == expected
    assert results["local_xcopa"]["num_documents"] == len(DOCUMENTS)
    assert 0 < expected < 1
    assert results["random_labels"]["acc"] == expected_accuracy(tmp_path / "exported", drawn)
    # Three standard deviations of a coin.
    assert abs(results["random_labels"]["acc"] - 0.5) < 3 * math.sqrt(0.25 / 400)

    # Without the hub the tasks of others are known by name, but their data is out of reach.
    options = Options(tasks=("xnli_de", "xcopa_zh", "xstorycloze_*", "pawsx", "local_xkopa"), include_path=("gone",))
    assert EVALUATION.check(options) == ["include_path gone: no such folder"]
    options = replace(options, include_path=(str(tmp_path / "task"),))
    assert EVALUATION.check(options) == ["lm-eval has no task 'local_xkopa'; did you mean local_xcopa?"]
    with pytest.raises(DataError, match=r"the data of xnli_de can't be downloaded \(.+\); run it where the hub is"):
        EVALUATION.run(
            open_folder(tmp_path / "exported"), Options(tasks=("xnli_de",)), lambda done, total, part="": None
        )
