"""A bake on a Ray cluster of two workers on this machine gives the bytes of a local one, and its errors."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.bake.bake import bake
from megatron_prealign.bake.options import BakeOptions
from megatron_prealign.errors import DataError
from megatron_prealign.text import files as inputs_module


@pytest.fixture
def options(tmp_path: Path, documents: list[str], bpe_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a bake of some pieces."""
    monkeypatch.setattr(inputs_module, "_MIN_PIECE_BYTES", 30_000)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents[:20])
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "lexicon.tsv").write_text("the\tdie\tde\nof\tvon\tde\n", encoding="utf-8")
    return {
        "input_paths": (tmp_path / "a.jsonl",),
        "tokenizer_path": bpe_folder,
        "lexicon_paths": (tmp_path / "lexicon.tsv",),
        "codeswitch_ratio": 0.2,
        "num_workers": 2,
    }


@pytest.mark.slow
def test_ray_gives_the_bytes_of_a_local_bake(tmp_path: Path, options: dict[str, Any]) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed (extra cluster)")
    pytest.importorskip("datatrove", reason="datatrove is not installed (extra cluster)")
    local = bake(BakeOptions(**options, output_prefix=tmp_path / "local"), show_progress=False)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        on_ray = bake(BakeOptions(**options, output_prefix=tmp_path / "ray", executor="ray"), show_progress=False)
    finally:
        ray.shutdown()
    assert on_ray.content == local.content
    for suffix in (".bin", ".idx", ".switch.bin", ".switch.idx"):
        left, right = (tmp_path / f"{name}_text_document{suffix}" for name in ("local", "ray"))
        assert left.read_bytes() == right.read_bytes()
    with options["input_paths"][0].open("a") as stream:
        stream.write("bad\n")
    with pytest.raises(DataError, match=r"a\.jsonl:21: not JSON"):
        bake(BakeOptions(**options, output_prefix=tmp_path / "bad", executor="ray"), show_progress=False)
    assert not list(tmp_path.glob("bad_*"))


def test_slurm_without_partition_or_sbatch_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    pytest.importorskip("datatrove", reason="datatrove is not installed (extra cluster)")
    with pytest.raises(DataError, match=r"--cluster partition=NAME"):
        bake(BakeOptions(**options, output_prefix=tmp_path / "slurm", executor="slurm"), show_progress=False)
