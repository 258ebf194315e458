"""Datasets merged: the same bytes as one bake of all documents, and a refusal of what does not belong together."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.bake.bake import BakeOptions, bake
from megatron_prealign.bake.merge import merge_datasets
from megatron_prealign.bake.verify import verify
from megatron_prealign.dataset.manifest import read_manifest
from megatron_prealign.errors import DataError

TEXTS = ["the bank is here", "", "is the statement of the bank", "class", "the the the", "where was the bank"]


@pytest.fixture
def bake_texts(tmp_path: Path, bpe_folder: Path) -> Any:
    """Return a function that bakes texts under a name."""
    (tmp_path / "lexicon.tsv").write_text("the\tdie\tde\nbank\t银行\tzh\nis\tist\tde\n", encoding="utf-8")

    def run(name: str, texts: list[str], **changes: Any) -> Path:
        source = tmp_path / f"{name}.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        options: dict[str, Any] = {
            "input_paths": (source,),
            "tokenizer_path": bpe_folder,
            "output_prefix": tmp_path / name,
            "lexicon_paths": (tmp_path / "lexicon.tsv",),
            "codeswitch_ratio": 0.7,
            "append_eod": True,
        }
        bake(BakeOptions(**options | changes), show_progress=False)
        return tmp_path / f"{name}_text_document"

    return run


def test_merged_parts_are_the_bytes_of_the_whole(bake_texts: Any, tmp_path: Path) -> None:
    whole = bake_texts("whole", TEXTS)
    parts = [bake_texts("a", TEXTS[:2]), bake_texts("b", TEXTS[2:3]), bake_texts("c", TEXTS[3:])]
    merged = tmp_path / "merged_text_document"
    manifest = merge_datasets(parts, merged)
    expected = read_manifest(whole).content
    assert manifest.content == {**expected, "merged_from": [read_manifest(part).content_hash for part in parts]}
    for suffix in expected["files"]:
        assert Path(f"{merged}{suffix}").read_bytes() == Path(f"{whole}{suffix}").read_bytes()
    assert verify(merged) == []


def test_plain_and_switched_text_can_be_merged(bake_texts: Any, tmp_path: Path) -> None:
    plain = bake_texts("plain", TEXTS[:3], lexicon_paths=(), codeswitch_ratio=0.0)
    switched = bake_texts("switched", TEXTS[3:], codeswitch_ratio=1.0)
    manifest = merge_datasets([plain, switched], tmp_path / "m")
    assert manifest.content["codeswitch_ratio"] is None
    assert manifest.content["lexicon_fingerprint"] == read_manifest(switched).content["lexicon_fingerprint"]
    assert manifest.content["counts"]["switched"] == read_manifest(switched).content["counts"]["switched"]
    assert verify(tmp_path / "m") == []
    assert not merge_datasets([plain, plain], tmp_path / "p").has_switches
    assert verify(tmp_path / "p") == []


def test_what_does_not_belong_together_is_refused(bake_texts: Any, tmp_path: Path, sentencepiece_path: Path) -> None:
    first = bake_texts("first", TEXTS)
    (tmp_path / "lexicon.tsv").write_text("the\tder\tde\n", encoding="utf-8")
    plain: dict[str, Any] = {"lexicon_paths": (), "codeswitch_ratio": 0.0}
    others = {
        "tokenizer fingerprint": bake_texts("t", TEXTS, tokenizer_path=sentencepiece_path, **plain),
        "lexicon fingerprint": bake_texts("l", TEXTS),
        "eod id": bake_texts("e", TEXTS, append_eod=False),
    }
    for name, other in others.items():
        with pytest.raises(DataError, match=f"its {name} is .*; bake both with the same one"):
            merge_datasets([first, other], tmp_path / "m")
    assert not list(tmp_path.glob("m*"))


def test_damage_and_outputs_are_checked_before_anything_is_written(bake_texts: Any, tmp_path: Path) -> None:
    first, second = bake_texts("a", TEXTS[:3]), bake_texts("b", TEXTS[3:])
    with pytest.raises(DataError, match="is one of the merged datasets"):
        merge_datasets([first, second], first)
    with pytest.raises(DataError, match="give at least two"):
        merge_datasets([first], tmp_path / "m")
    merge_datasets([first, second], tmp_path / "m")
    with pytest.raises(DataError, match="already exists"):
        merge_datasets([second, first], tmp_path / "m")
    before = read_manifest(tmp_path / "m")
    data = bytearray(Path(f"{second}.bin").read_bytes())
    data[0] ^= 1
    Path(f"{second}.bin").write_bytes(bytes(data))
    with pytest.raises(DataError, match="does not match"):
        merge_datasets([first, second], tmp_path / "m", overwrite=True)
    assert read_manifest(tmp_path / "m") == before and verify(tmp_path / "m") == []
    merge_datasets([first, first], tmp_path / "m", overwrite=True)
    assert verify(tmp_path / "m") == []
