"""The manifest is hashed itself and knows the files it describes."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.dataset.manifest import Manifest, check_manifest, file_hash, manifest_path, read_manifest
from megatron_prealign.errors import DataError


def write_dataset(folder: Path, suffixes: tuple[str, ...] = (".bin", ".idx")) -> Path:
    """Write files and a manifest that describes them; return the prefix."""
    prefix = folder / "corpus_text_document"
    files: dict[str, dict[str, Any]] = {}
    for suffix in suffixes:
        path = Path(f"{prefix}{suffix}")
        path.write_bytes(suffix.encode() * 3)
        files[suffix] = {"sha256": file_hash(path), "size": path.stat().st_size}
    content: dict[str, Any] = {"format_version": 1, "files": files, "tokenizer_fingerprint": "t", "vocab_size": 7}
    content |= {"lexicon_fingerprint": None, "seed": 1, "codeswitch_ratio": 0.0, "counts": {}}
    manifest_path(prefix).write_text(Manifest(content, {"command": "x"}).to_json(), encoding="utf-8")
    return prefix


def test_round_trip(tmp_path: Path) -> None:
    prefix = write_dataset(tmp_path)
    manifest = read_manifest(prefix)
    assert manifest.content["vocab_size"] == 7 and manifest.provenance == {"command": "x"}
    assert not manifest.has_switches
    assert check_manifest(prefix) == []
    assert read_manifest(write_dataset(tmp_path, (".bin", ".idx", ".switch.bin", ".switch.idx"))).has_switches


def test_the_hash_is_of_content_alone(tmp_path: Path) -> None:
    manifest = read_manifest(write_dataset(tmp_path))
    assert Manifest(manifest.content, {"command": "y"}).content_hash == manifest.content_hash
    assert Manifest({**manifest.content, "seed": 2}, {}).content_hash != manifest.content_hash
    reordered = dict(reversed(manifest.content.items()))
    assert Manifest(reordered, {}).content_hash == manifest.content_hash


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole["content"].update(seed=2), "edited or damaged"),
        (lambda whole: whole["content"].update(format_version=9), "format version 9"),
        (lambda whole: whole["content"].pop("counts"), "not the manifest"),
        (lambda whole: whole.pop("content"), "not the manifest"),
        (lambda whole: whole.update(content_hash="0"), "edited or damaged"),
        (lambda whole: whole.pop("content_hash"), "not the manifest"),
        (lambda whole: whole["content"].update(files=[1]), "not the manifest"),
        (lambda whole: whole["content"]["files"].update({".bin": 7}), "not the manifest"),
        (lambda whole: whole["content"].update(tokenizer_fingerprint=7), "not the manifest"),
        (lambda whole: whole["content"].update(vocab_size="7"), "not the manifest"),
        (lambda whole: whole.update(provenance=["a"]), "not the manifest"),
        (lambda whole: whole["content"].update(tokenizer_fingerprint="\ud800"), "not the manifest"),
    ],
)
def test_damaged_manifests_are_refused(tmp_path: Path, damage: Any, message: str) -> None:
    prefix = write_dataset(tmp_path)
    whole = json.loads(manifest_path(prefix).read_text(encoding="utf-8"))
    damage(whole)
    manifest_path(prefix).write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_manifest(prefix)
    assert message in check_manifest(prefix)[0]


def test_half_of_the_switch_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it lists \.bin, \.idx, \.switch\.bin; bake it again"):
        read_manifest(write_dataset(tmp_path, (".bin", ".idx", ".switch.bin")))


def test_missing_or_truncated_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such manifest"):
        read_manifest(tmp_path / "absent")
    prefix = write_dataset(tmp_path)
    with pytest.raises(DataError, match=r"no such manifest; leave out \.switch\.idx"):
        read_manifest(f"{prefix}.switch.idx")
    manifest_path(prefix).unlink()
    manifest_path(prefix).mkdir()
    with pytest.raises(DataError, match=r"not a manifest .*directory"):
        read_manifest(prefix)
    manifest_path(prefix).rmdir()
    for text in ('{"content": ', "[" * 100_000):
        manifest_path(prefix).write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="not a manifest"):
            read_manifest(prefix)


def test_check_compares_sizes_and_index_hashes(tmp_path: Path) -> None:
    prefix = write_dataset(tmp_path)
    Path(f"{prefix}.bin").write_bytes(b"short")
    Path(f"{prefix}.idx").write_bytes(b".idy" * 3)
    Path(f"{prefix}.switch.idx").write_bytes(b"stale")
    problems = check_manifest(prefix)
    assert len(problems) == 3
    assert "5 bytes" in problems[0] and "hash" in problems[1] and "left over" in problems[2]
    Path(f"{prefix}.bin").unlink()
    assert "missing" in check_manifest(prefix)[0]
