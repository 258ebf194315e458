"""The index built before a run is the one that the run reads."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from megatron_prealign.testing import run_distributed
from megatron_prealign.text.tokenizer import load_tokenizer
from tests.dataset.baked import random_documents, write_baked
from tests.workspace import MakeValues
from tools.build_index import main


def _start(values: Any) -> str:
    """Return what a rank says when the run begins."""
    from megatron_prealign.testing.trainers import make_trainer

    with contextlib.redirect_stderr(io.StringIO()) as said:
        make_trainer(values)
    return said.getvalue()


def test_a_run_finds_what_was_built_before(
    make_values: MakeValues, two_datasets: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"blend": two_datasets, "cache_path": str(tmp_path / "cache")}
    values = make_values("pretrain", tmp_path / "run", data=data, training={"eval_interval": 3})
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    # The mix, two training splits and two validation splits.
    for expected in ("5 parts built into", f"all 5 parts found in {tmp_path / 'cache'}"):
        assert main(["--config", str(config)]) == 0
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    first, second = run_distributed(_start, 2, values)
    assert "Sample index of training: all 3 parts" in first and "Sample index of validation: all 2 parts" in first
    assert "built" not in first
    assert "Sample index" not in second


def test_bad_input_is_refused_as_the_run_would(
    make_values: MakeValues, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(make_values("pretrain", tmp_path / "run", data={"blend": [{"prefix": "gone_*"}]})))
    assert main(["--config", str(config)]) == 2
    assert "error: --data.blend[0]: no dataset matches gone_*" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [config]


@pytest.fixture
def two_datasets(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    tokenizer = load_tokenizer(workspace / "tok")
    documents = random_documents(np.random.default_rng(7), 60, tokenizer.vocab_size, 60)
    prefix = write_baked(tmp_path_factory.mktemp("sw") / "sw", documents, tokenizer.vocab_size, tokenizer.fingerprint)
    return [{"prefix": str(workspace / "data"), "language": "en"}, {"prefix": prefix, "language": "sw"}]
