"""A dataset's files take their names together, the manifest last."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from megatron_prealign.dataset.manifest import DATA_SUFFIXES, Manifest, manifest_path
from megatron_prealign.files import sync


def existing_files(prefix: str | Path) -> list[Path]:
    """Return the files of a dataset that are there already."""
    paths = [*(Path(f"{prefix}{suffix}") for suffix in DATA_SUFFIXES), manifest_path(prefix)]
    return [path for path in paths if path.exists()]


@contextmanager
def staging(prefix: Path) -> Iterator[Path]:
    """Hand out a prefix in a temporary folder beside the final one, so that a rename stays in one file system."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{prefix.name}.", dir=prefix.parent) as folder:
        yield Path(folder, prefix.name)


def publish(staged: Path, prefix: Path, manifest: Manifest) -> None:
    """Give the files their final names; at every moment a manifest that exists describes what lies beside it."""
    manifest_path(staged).write_text(manifest.to_json(), encoding="utf-8")
    sync(manifest_path(staged))
    manifest_path(prefix).unlink(missing_ok=True)
    for suffix in DATA_SUFFIXES:
        if suffix in manifest.content["files"]:
            os.replace(f"{staged}{suffix}", f"{prefix}{suffix}")
        else:
            Path(f"{prefix}{suffix}").unlink(missing_ok=True)
    sync(prefix.parent)
    os.replace(manifest_path(staged), manifest_path(prefix))
    sync(prefix.parent)
