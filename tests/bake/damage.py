"""Damage to baked datasets, with or without a manifest that agrees with it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

from megatron_prealign.dataset.manifest import Manifest, file_hash, manifest_path


def edit(prefix: Path, suffix: str, change: Callable[[bytearray], None], rehash: bool) -> None:
    """Change the bytes of a file; with `rehash` the manifest is brought to agree, so that only the content is wrong."""
    path = Path(f"{prefix}{suffix}")
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))
    if rehash:
        whole = json.loads(manifest_path(prefix).read_text(encoding="utf-8"))
        whole["content"]["files"][suffix] = {"size": len(data), "sha256": file_hash(path)}
        manifest_path(prefix).write_text(Manifest(whole["content"], {}).to_json(), encoding="utf-8")


def put(code: str, offset: int, value: int) -> Callable[[bytearray], None]:
    """Return a change that writes one number."""

    def change(data: bytearray) -> None:
        struct.pack_into(code, data, offset, value)

    return change
