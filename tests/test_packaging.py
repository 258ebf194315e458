"""setup.py and constraints.txt agree, and every command line that is installed exists."""

import ast
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def setting(name: str) -> Any:
    """Read a constant of setup.py; running it would start setuptools."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"setup.py has no {name}")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_pins_are_exact_and_without_local_tags() -> None:
    assert [version for version in pins().values() if not version[0].isdigit() or "+" in version] == []
    assert pins()["torch"] == "2.13.0"
    assert pins()["megatron-core"] == "0.16.1"


@pytest.mark.parametrize("text", [*setting("CORE"), *setting("EXTRAS")["dev"]])
def test_the_tests_run_within_the_declared_ranges(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_every_range_has_a_lower_end() -> None:
    texts = [*setting("CORE"), *(text for extra in setting("EXTRAS").values() for text in extra)]
    assert [text for text in texts if ">=" not in text and not text.startswith("types-")] == []


@pytest.mark.parametrize("module", setting("COMMANDS").values())
def test_every_command_has_its_main(module: str) -> None:
    body = ast.parse((ROOT / "tools" / f"{module}.py").read_text(encoding="utf-8")).body
    mains = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert len(mains) == 1
    assert len(mains[0].args.defaults) == len(mains[0].args.args) == 1, "an entry point calls main without arguments"


def test_every_tool_is_a_command() -> None:
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__"}
    assert set(setting("COMMANDS").values()) == tools
