"""Command lines import only what they need: looked up in sys.modules, never timed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SLOW = ("torch", "transformers", "megatron.core", "datatrove", "matplotlib")
# What the work of each tool needs of these; the rest, also what is imported inside functions, must come without.
NEEDS = {
    "build_lexicon": (),
    "inspect_dataset": (),
    "merge_datasets": (),
    "plan": (),
    "preprocess_codeswitch": (),
    "submit": (),
    "train_tokenizer": (),
    "verify_dataset": (),
    "plot_run": ("matplotlib",),
    "evaluate": ("torch", "transformers"),
    "generate": ("torch", "transformers"),
}
TRAINING = ("build_index", "convert_checkpoint", "inspect_samples", "preflight", "watch_checkpoints")


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def slow_modules(imports: str) -> set[str]:
    """Return the modules of `SLOW` that some lines of Python import."""
    return set(python(f"{imports}\nimport sys\nprint(*(set({SLOW}) & set(sys.modules)))").split())


def all_imports(tool: str) -> str:
    """Return a tool's imports of this package, also those inside its functions, as lines of Python."""
    tree = ast.parse((ROOT / "tools" / f"{tool}.py").read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in nodes if (node.module or "").startswith("megatron_prealign"))


@pytest.mark.parametrize("tool", NEEDS)
def test_a_tool_imports_what_its_work_needs(tool: str) -> None:
    assert slow_modules(all_imports(tool)) <= set(NEEDS[tool])


def test_no_tool_is_forgotten() -> None:
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__"} == {*NEEDS, *TRAINING}


@pytest.mark.parametrize("module", ["pretrain_prealign", *(f"tools.{tool}" for tool in (*NEEDS, *TRAINING))])
def test_help_waits_for_nothing_slow(module: str) -> None:
    code = f"import sys\ntry:\n    import {module}\n    {module}.main(['--help'])\nexcept SystemExit:\n    pass"
    assert python(f"{code}\nprint('slow:', *(set({SLOW}) & set(sys.modules)))").splitlines()[-1].strip() == "slow:"


def test_files_that_modules_name_are_there() -> None:
    folders = ("benchmarks", "examples", "tools")
    paths = sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))
    modules = [".".join(path.with_suffix("").parts) for path in paths if path.stem != "__init__"]
    missing = python(
        "import importlib, pathlib\n"
        f"for name in {modules}:\n"
        "    for value in vars(importlib.import_module(name)).values():\n"
        # Commands make what is in runs/.
        "        if isinstance(value, pathlib.Path) and 'runs' not in value.parts and not value.exists():\n"
        "            print(name, value)"
    )
    assert missing == ""
