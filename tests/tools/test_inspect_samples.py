"""The samples of a run are shown as the run reads them."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.control import strip_control_codes

from megatron_prealign.bake.inspection import spell
from megatron_prealign.testing import run_distributed
from megatron_prealign.testing.trainers import make_trainer
from megatron_prealign.text.tokenizer import load_tokenizer
from tests.workspace import MakeValues
from tools.inspect_samples import main


def _texts_of_first_step(values: Any) -> list[str]:
    """Take a step, save, and return the text of each sample that it read, in their order."""
    trainer = make_trainer(values)
    tokenizer = load_tokenizer(values["data"]["tokenizer_path"])
    take, texts = trainer.stage.parts[-1][0]._sequences.take, []  # type: ignore[attr-defined]

    def noted(state: Any) -> Any:
        batches = take(state)
        texts.extend(spell(tokenizer, row.tolist()) for batch in batches for row in batch["tokens"])
        return batches

    trainer.stage.parts[-1][0]._sequences.take = noted  # type: ignore[attr-defined]
    trainer.train_step()
    trainer.save()
    return texts


def test_samples_are_those_of_the_run(
    make_values: MakeValues, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = make_values("pretrain", tmp_path / "run")
    texts = run_distributed(_texts_of_first_step, 1, values)[0]
    assert len(texts) == 4
    record = {"step": 2, "samples": [1, 2]}
    (tmp_path / "run" / "skipped.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
    assert main([str(tmp_path / "run"), "--samples", "3", "--skipped"]) == 0
    prefix = values["data"]["blend"][0]["prefix"]
    shown = capsys.readouterr().out.split("sample ")[1:]
    assert [part.split(" ", 1)[0] for part in shown] == ["3,", "1,", "2,"]
    for part, number in zip(shown, (3, 1, 2), strict=True):
        assert part.startswith(f"{number}, of {prefix} ")
        assert part.rstrip("\n").endswith(strip_control_codes(texts[number]).rstrip("\n"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "no samples chosen; give --samples or --skipped"),
        (["--skipped"], "skipped.jsonl: no such file; the run has skipped no step"),
        (["--samples", "0", "24", "-1"], "its last mix holds samples 0 to 23, not 24, -1; name others"),
    ],
)
def test_what_is_not_there_is_refused(
    options: list[str], expected: str, make_values: MakeValues, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_distributed(_texts_of_first_step, 1, make_values("pretrain", tmp_path / "run"))
    assert main([str(tmp_path / "run"), *options]) == 2
    assert expected in capsys.readouterr().err
