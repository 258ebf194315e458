"""Versions of megatron-core that are not supported are refused at import, and the ranges are pip's."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from megatron_prealign.core_import import Version, is_supported

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = [(0, 15, 3), (0, 16, 0), (0, 16, 1), (0, 16, 2), (0, 17, 0), (0, 17, 1), (0, 18, 0), (0, 18, 2)]
VERSIONS += [(0, 19, 0), (0, 19, 2), (0, 20, 0), (0, 21, 3), (1, 0, 0)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_ranges_are_those_of_pyproject(version: Version) -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (core,) = (found for found in map(Requirement, dependencies) if found.name == "megatron-core")
    assert is_supported(version) == core.specifier.contains(".".join(map(str, version)))


@pytest.mark.parametrize("module", ["megatron.core", "megatron_prealign.platform", "megatron_prealign.dataset.blend"])
def test_another_version_is_refused_with_the_way_out(module: str, tmp_path: Path) -> None:
    core = tmp_path / "megatron" / "core"
    core.mkdir(parents=True)
    (core / "__init__.py").write_text("raise AssertionError('imported')")
    (core / "package_info.py").write_text("MAJOR, MINOR, PATCH = 0, 18, 2\n__version__ = '0.18.2rc1'\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", f"import megatron_prealign\nimport {module}"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"megatron_prealign.errors.PrealignError: megatron-core 0.18.2rc1 in {core} is not supported (supported: "
        ">=0.16.1,<0.17.0 or >=0.19.0,<0.20.0); install one: pip install 'megatron-core==0.16.1', "
        "or 0.19.2 with Python 3.12 or newer"
    )
