"""What the layout promises: sizes, direction of imports, purity, the README's tree, and that no test can vanish."""

import ast
import fnmatch
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "megatron_prealign"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

FOLDERS = (PACKAGE, "tools", "examples", "benchmarks", "tests")
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.py"), *(found for folder in FOLDERS for found in (ROOT / folder).rglob("*.py"))]
)

# What each part may import of the package besides itself; these are everyone's.
EVERYONES = {"core_import", "errors", "files", "optional_packages", "ranks", "signals"}
MAY_IMPORT = {
    "core_import": set(),
    "errors": set(),
    "files": set(),
    "optional_packages": set(),
    "ranks": set(),
    "signals": set(),
    "command_line": set(),
    "gpu_environment": {"config"},
    "text": set(),
    "config": set(),
    "platform": {"config"},
    "lexicon": {"text"},
    "codeswitch": {"lexicon", "text"},
    "dataset": {"codeswitch", "lexicon", "text", "config"},
    "bake": {"dataset", "codeswitch", "lexicon", "text"},
    "pairs": {"codeswitch", "lexicon", "text"},
    "model": {"platform", "config"},
    "alignment": {"platform", "config"},
    "checkpoint": {"model", "dataset", "lexicon", "text", "platform", "config"},
    "evaluation": {"checkpoint", "pairs", "dataset", "codeswitch", "lexicon", "text", "config"},
    "reports": {"checkpoint", "config"},
    "training": {
        *("reports", "evaluation", "checkpoint", "alignment", "model", "pairs", "bake", "dataset", "lexicon", "text"),
        *("platform", "config"),
    },
    "testing": {
        *("training", "checkpoint", "alignment", "model", "pairs", "dataset", "lexicon", "text", "platform", "config"),
    },
}

# What each part imports from megatron.core; platform/ may import all of it. It differs between versions: keep it short.
FROM_MEGATRON_CORE = {
    "alignment": {
        "tensor_parallel.mappings.reduce_from_tensor_model_parallel_region",
        "utils.get_attr_wrapped_model",
        "utils.make_viewless_tensor",
    },
    "checkpoint": {"dist_checkpointing.ShardedObject", "optimizer.MegatronOptimizer", "utils.unwrap_model"},
    "dataset": {
        "datasets.blended_megatron_dataset_config.convert_split_vector_to_split_matrix",
        "datasets.blended_megatron_dataset_config.parse_and_normalize_split",
        "datasets.gpt_dataset.GPTDataset",
        "datasets.gpt_dataset.GPTDatasetConfig",
        "datasets.helpers",
        "datasets.indexed_dataset.IndexedDataset",
        "datasets.utils.Split",
    },
    "model": {
        "extensions.transformer_engine.TEDotProductAttention",
        "fusions.fused_layer_norm.FusedLayerNorm",
        "models.gpt.GPTModel",
        "models.gpt.gpt_layer_specs.get_gpt_layer_local_spec",
        "models.gpt.gpt_layer_specs.get_gpt_layer_with_transformer_engine_spec",
        "packed_seq_params.PackedSeqParams",
        "tensor_parallel",
        "transformer.enums.AttnMaskType",
        "transformer.module.Float16Module",
        "transformer.module.MegatronModule",
        "transformer.spec_utils.ModuleSpec",
        "transformer.transformer_block.TransformerBlockSubmodules",
        "transformer.transformer_block.get_num_layers_to_build",
        "transformer.transformer_config.TransformerConfig",
        "utils.get_attr_wrapped_model",
    },
    "testing": {"optimizer.MegatronOptimizer", "utils.unwrap_model"},
    "training": {
        "distributed.DistributedDataParallel",
        "distributed.DistributedDataParallelConfig",
        "distributed.finalize_model_grads",
        "optimizer.MegatronOptimizer",
        "optimizer.OptimizerConfig",
        "optimizer.get_megatron_optimizer",
        "optimizer_param_scheduler.OptimizerParamScheduler",
        "pipeline_parallel.get_forward_backward_func",
        "utils.get_model_config",
        "utils.unwrap_model",
    },
}

PRIVATE = re.compile(r"(^|\.)_|^parallel_state|^optimizer\.(optimizer|distrib_optimizer)|^dist_checkpointing\.strat")

PURE_MATHS = [
    "alignment/contrastive.py",
    "alignment/pooling.py",
    "codeswitch/codeswitch.py",
    "codeswitch/draws.py",
    "codeswitch/labels.py",
    "codeswitch/words.py",
]
# Process groups, configuration, and what reads or writes.
IMPURE = ("torch.distributed", "megatron.core", f"{PACKAGE}.config", f"{PACKAGE}.platform")
IMPURE += ("io", "json", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "yaml")


def parse(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"), source)


def imported_modules(source: str) -> Iterator[str]:
    """Yield the full name of everything a file imports, inside functions too."""
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_inside(module: str, package: str) -> bool:
    """Say whether a dotted name is a package or something in it."""
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("source", SOURCES)
def test_files_and_functions_are_short(source: str) -> None:
    assert len((ROOT / source).read_text(encoding="utf-8").splitlines()) < MAX_FILE_LINES
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert num_lines < MAX_FUNCTION_LINES, f"{source}:{node.lineno}: {node.name} has {num_lines} lines"


@pytest.mark.parametrize("source", [source for source in SOURCES if source.startswith(f"{PACKAGE}/")])
def test_imports_go_in_one_direction(source: str) -> None:
    part = Path(source).relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        # Every command line pays for what stands here, and in what has to come before megatron-core.
        early = ("core_import", "optional_packages", "errors")
        modules = [*imported_modules(source)]
        modules += [module for name in early for module in imported_modules(f"{PACKAGE}/{name}.py")]
        modules = [module for module in modules if not any(is_inside(module, f"{PACKAGE}.{name}") for name in early)]
        assert {module.split(".")[0] for module in modules} <= sys.stdlib_module_names
        return
    allowed = MAY_IMPORT[part] | EVERYONES | {part}
    for module in imported_modules(source):
        assert module.split(".")[0] not in ("tools", "prealign_tools", "examples", "tests", "pretrain_prealign"), module
        if is_inside(module, PACKAGE) and module != f"{PACKAGE}.__version__":
            assert module.split(".")[1] in allowed, f"{source} imports {module}"


@pytest.mark.parametrize("source", [source for source in SOURCES if source.startswith("tools/")])
def test_tools_stand_alone(source: str) -> None:
    others = ("tools", "prealign_tools", "examples")
    assert [module for module in imported_modules(source) if module.split(".")[0] in others] == []


@pytest.mark.parametrize("source", [name for name in SOURCES if not name.startswith(("examples/paper/", "tests/"))])
def test_nothing_else_imports_the_reproduction_of_the_paper(source: str) -> None:
    assert [module for module in imported_modules(source) if is_inside(module, "examples.paper")] == []


@pytest.mark.parametrize("source", PURE_MATHS)
def test_maths_is_pure(source: str) -> None:
    source = f"{PACKAGE}/{source}"
    assert [module for module in imported_modules(source) if any(is_inside(module, impure) for impure in IMPURE)] == []
    calls = [node.func for node in ast.walk(parse(source)) if isinstance(node, ast.Call)]
    assert [call.id for call in calls if isinstance(call, ast.Name) and call.id in ("open", "print")] == []


@pytest.mark.parametrize("source", SOURCES)
def test_megatron_training_is_never_imported(source: str) -> None:
    for module in imported_modules(source):
        assert not is_inside(module, "megatron") or is_inside(module, "megatron.core"), module


def test_what_is_imported_from_megatron_core_is_public_and_listed() -> None:
    found: dict[str, set[str]] = {}
    for source in SOURCES:
        part = Path(source).parts[1].removesuffix(".py") if source.startswith(f"{PACKAGE}/") else Path(source).parts[0]
        if part not in ("platform", "tests", "benchmarks"):
            names = {
                name.removeprefix("megatron.core.") for name in imported_modules(source) if "megatron.core." in name
            }
            found.setdefault(part, set()).update(names)
    assert {part: names for part, names in found.items() if names} == FROM_MEGATRON_CORE
    assert [name for name in set().union(*found.values()) if PRIVATE.search(name)] == []


def test_every_name_imported_from_megatron_core_is_in_this_version() -> None:
    """Those of platform/, tests and benchmarks too, also where they are imported inside functions."""
    names = {name for source in SOURCES for name in imported_modules(source) if is_inside(name, "megatron.core")}
    assert len(names) > 50
    assert [name for name in sorted(names) if not _exists(name)] == []


def _exists(name: str) -> bool:
    """Tell whether a dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(importlib.import_module(name))
    except ModuleNotFoundError:
        return False


def test_no_test_vanishes() -> None:
    """A file with a test function that pytest would not collect is a test nobody runs."""
    astray = [
        source
        for source in SOURCES
        if any(
            isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            for node in [*parse(source).body, *_class_bodies(source)]
        )
        and not (source.startswith("tests/") and Path(source).name.startswith("test_"))
    ]
    assert astray == []
    empty = [
        source
        for source in SOURCES
        if Path(source).name.startswith("test_") and "def test_" not in (ROOT / source).read_text(encoding="utf-8")
    ]
    assert empty == []


def _class_bodies(source: str) -> Iterator[ast.stmt]:
    for node in parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield from node.body


def test_nothing_is_left_to_do() -> None:
    marker = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    documents = [path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]]
    found = [
        f"{name}:{number}"
        for name in [*SOURCES, *documents, "Makefile", "Dockerfile"]
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1)
        if marker.search(line)
    ]
    assert found == []


# The tree in the README. Format: between the lines <!-- tree --> and <!-- /tree -->, in a fenced
# block, one entry a line: its name (a folder ends in /; a path such as .ci/run is fine), two or more
# spaces, one clause. Entries of a folder stand below it, indented deeper. The root is listed
# whole, and so is every folder that is opened: all its entries, or none. Dotfiles, __init__.py,
# py.typed and what .gitignore names may be left out.


def read_tree() -> dict[str, str]:
    """Read the tree of the README: path to clause; folders keep their slash."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tree -->\s*```\w*\n(.*?)```\s*<!-- /tree -->", readme, re.DOTALL)
    assert block is not None, "README.md needs a fenced block between <!-- tree --> and <!-- /tree -->"
    tree: dict[str, str] = {}
    open_folders: list[tuple[int, str]] = []
    for line in block[1].splitlines():
        if not line.strip():
            continue
        entry = re.fullmatch(r"( *)(\S+)  +(\S.*)", line)
        assert entry is not None, f"README.md: the tree's line {line!r} is not 'name  clause'"
        indent = len(entry[1])
        while open_folders and open_folders[-1][0] >= indent:
            open_folders.pop()
        path = (open_folders[-1][1] if open_folders else "") + entry[2]
        assert path not in tree, f"README.md: {path} is in the tree twice"
        tree[path] = entry[3]
        if path.endswith("/"):
            open_folders.append((indent, path))
    return tree


def on_disk(folder: str) -> set[str]:
    """Return what the tree must list of a folder."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    return {
        f"{folder}{path.name}{'/' if path.is_dir() else ''}"
        for path in (ROOT / folder).iterdir()
        if not path.name.startswith((".", "__")) and path.name != "py.typed"
        if not any(fnmatch.fnmatch(path.name, pattern.rstrip("/")) for pattern in ignored)
    }


def test_the_tree_in_the_readme_is_the_tree_on_disk() -> None:
    tree = read_tree()
    gone = [path for path in tree if not (ROOT / path).exists() or path.endswith("/") != (ROOT / path).is_dir()]
    assert gone == []
    opened = {"", *(parent for path in tree if (parent := path[: path.rstrip("/").rfind("/") + 1]) in tree)}
    missing = {folder: sorted(left) for folder in opened if (left := on_disk(folder) - set(tree))}
    assert missing == {}


def test_files_that_the_documentation_names_exist() -> None:
    rooms = "|".join(path.parent.name for path in sorted((ROOT / PACKAGE).glob("*/__init__.py")))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        if page.name != "CHANGELOG.md"
        for name in re.findall(rf"`((?:{rooms})/[a-z0-9_/]+\.py)`", page.read_text(encoding="utf-8"))
        if not (ROOT / PACKAGE / name).exists()
    ]
    assert missing == []
