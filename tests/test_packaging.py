"""pyproject.toml and constraints.txt agree, and every command line that is installed exists."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMMANDS = {command: target.split(":") for command, target in PROJECT["scripts"].items()}


def requirements(*extras: str) -> list[str]:
    """List the dependencies of the package with some extras; an extra may name others of the package."""
    found = []
    for text in (text for extra in extras for text in PROJECT["optional-dependencies"][extra]):
        requirement = Requirement(text)
        found += requirements(*requirement.extras) if requirement.name == PROJECT["name"] else [text]
    return [*(() if extras else PROJECT["dependencies"]), *found]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_pins_are_exact_and_without_local_tags() -> None:
    assert [version for version in pins().values() if not version[0].isdigit() or "+" in version] == []
    assert pins()["torch"] == "2.13.0"
    assert pins()["megatron-core"] == "0.16.1"


@pytest.mark.parametrize("text", [*requirements(), *requirements("dev")])
def test_the_tests_run_within_the_declared_ranges(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_every_range_has_a_lower_end() -> None:
    texts = [*requirements(), *requirements(*PROJECT["optional-dependencies"])]
    assert [text for text in texts if ">=" not in text and not text.startswith("types-")] == []


@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values()])
def test_every_command_has_its_main(module: str) -> None:
    path = ROOT / "tools" / f"{module.removeprefix('prealign_tools.')}.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body
    mains = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert len(mains) == 1
    assert len(mains[0].args.defaults) == len(mains[0].args.args) == 1, "an entry point calls main without arguments"


def test_every_tool_is_a_command() -> None:
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__"}
    assert {tuple(target) for target in COMMANDS.values()} == {(f"prealign_tools.{tool}", "main") for tool in tools}


def test_the_package_is_built_without_a_compiler(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path)
    module = Path("megatron_prealign/codeswitch/scan.pyx")
    (tmp_path / module).parent.mkdir(parents=True)
    shutil.copy(ROOT / module, tmp_path / module)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "CC": "/bin/false"}, check=True, capture_output=True)
    assert not list((tmp_path / module).parent.glob("*.so"))
