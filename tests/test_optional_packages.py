"""Installed packages that can't be imported: a run works without them, and says so once, with the reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_prealign import optional_packages
from megatron_prealign.config import ModelConfig, config_from_dict
from megatron_prealign.errors import ConfigError
from megatron_prealign.model import layer_spec, transformer_config
from megatron_prealign.model.layer_spec import select_implementation
from megatron_prealign.model.transformer_config import build_transformer_config
from tests.workspace import MakeValues

ROOT = Path(__file__).resolve().parents[1]
MISSING_EXTENSION = "Could not find shared object file for Transformer Engine torch lib."
# What Transformer Engine 2.20 does where its PyTorch extension is missing.
HALF_INSTALLED = {
    "transformer_engine/__init__.py": """
import warnings
try:
    from . import pytorch
except FileNotFoundError:
    warnings.warn("Detected a PyTorch installation but could not find the shared object file", RuntimeWarning)
""",
    "transformer_engine/pytorch/__init__.py": f"raise FileNotFoundError({MISSING_EXTENSION!r})\n",
}
# One of each kind, and errors of every sort that such packages raise.
BROKEN = {
    "transformer_engine/__init__.py": "raise RuntimeError('Found empty meta package installed.')\n",
    "apex/__init__.py": "assert False, 'built for another torch'\n",
    "fused_weight_gradient_mlp_cuda.py": "raise OSError('libcudart.so.13: cannot open shared object file')\n",
    "flash_attn/__init__.py": "raise AttributeError('module torch has no attribute _C_flash')\n",
    # megatron-core copes with this one by itself.
    "grouped_gemm/__init__.py": "raise ImportError('undefined symbol')\n",
}


def _install(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _python(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{installed}"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )


@pytest.mark.parametrize("error", ["RuntimeError", "FileNotFoundError", "AssertionError", "OSError", "ImportError"])
@pytest.mark.parametrize(
    "module", ["transformer_engine", "transformer_engine.pytorch", "transformer_engine.pytorch.fp8"]
)
def test_whatever_an_import_raises_the_package_is_absent_and_the_error_is_kept(
    error: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["transformer_engine", "transformer_engine.pytorch", "transformer_engine.pytorch.fp8"]
    files = {f"{name.replace('.', '/')}/__init__.py": "" for name in names}
    files[f"{module.replace('.', '/')}/__init__.py"] = f"raise {error}('what it says\\nand more')\n"
    before = dict(sys.modules)
    monkeypatch.syspath_prepend(_install(tmp_path, files))
    try:
        problems = optional_packages.find_problems.__wrapped__()
        assert problems["transformer_engine"].startswith(
            f"transformer_engine is installed but can't be imported ({error}: what it says); install it whole"
        )
        for name in names:
            with pytest.raises(ImportError):
                __import__(name)
        # Looked at again, as by a forked process that starts anew, it is simply not there.
        assert optional_packages.find_problems.__wrapped__() == {}
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


def test_apex_without_its_cuda_extensions_is_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = ("apex", "apex/normalization", "apex/normalization/fused_layer_norm", "apex/optimizers")
    files = {f"{name}/__init__.py": "" for name in (*modules, "apex/multi_tensor_apply")}
    monkeypatch.syspath_prepend(_install(tmp_path, files))
    before = dict(sys.modules)
    try:
        assert "No module named 'amp_C'" in optional_packages.find_problems.__wrapped__()["apex"]
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


def test_megatron_core_can_be_imported_beside_broken_packages_by_whatever_module_comes_first(tmp_path: Path) -> None:
    code = """
import megatron_prealign.dataset.blend  # imports megatron-core, and nothing of platform/
import megatron_prealign.training.setup
from megatron_prealign.optional_packages import find_problems, is_usable
assert not any(map(is_usable, ("apex", "fused_weight_gradient_mlp_cuda", "transformer_engine")))
print("\\n".join(find_problems().values()))
"""
    result = _python(_install(tmp_path, BROKEN), "-c", code)
    assert result.returncode == 0, result.stderr
    reported = [line.partition(" is installed but can't be imported (")[::2] for line in result.stdout.splitlines()]
    assert [(package, cause.partition(":")[0]) for package, cause in reported] == [
        ("transformer_engine", "RuntimeError"),
        ("apex", "AssertionError"),
        ("fused_weight_gradient_mlp_cuda", "OSError"),
        ("flash_attn", "AttributeError"),
    ]


def test_a_run_on_cpus_says_once_what_is_broken(make_values: MakeValues, tmp_path: Path) -> None:
    config_path = tmp_path / "config.yaml"
    config_path.write_text(yaml.safe_dump(make_values("pretrain", tmp_path / "run", training={"train_steps": 1})))
    installed = _install(tmp_path / "installed", HALF_INSTALLED)
    result = _python(installed, "pretrain_prealign.py", "--config", str(config_path))
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if "transformer_engine" in line or "RuntimeWarning" in line]
    assert len(said) == 1
    assert said[0].startswith(
        "WARNING: transformer_engine is installed but can't be imported "
        f"(FileNotFoundError: {MISSING_EXTENSION}); install it whole"
    )


def test_on_gpus_local_layers_are_taken_with_the_reason_or_the_error_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = "transformer_engine is installed but can't be imported (OSError: libcuda); install it whole"
    for module in (layer_spec, transformer_config):
        monkeypatch.setattr(module, "find_problems", lambda: dict.fromkeys(("transformer_engine", "apex"), problem))
    implementation, reason = select_implementation(ModelConfig(), "cuda")
    assert implementation == "local"
    assert reason.startswith("local layers (Transformer Engine can't be imported): ")
    assert reason.endswith("PyTorch's norms (apex can't be imported)")
    with pytest.raises(ConfigError, match="transformer_impl transformer_engine: transformer_engine is installed but"):
        select_implementation(ModelConfig(transformer_impl="transformer_engine"), "cuda")
    fp8 = config_from_dict({"training": {"fp8": "hybrid", "precision": "bf16"}})
    with pytest.raises(ConfigError, match="fp8 hybrid needs Transformer Engine layers: transformer_engine is inst"):
        build_transformer_config(fp8, "cuda")


def test_every_package_that_megatron_core_looks_for_is_known() -> None:
    code = """
import sys

class Missed:
    def find_spec(self, name, path=None, target=None):
        frames, frame = [], sys._getframe(1)
        while frame:
            frames.append(frame.f_code.co_filename)
            frame = frame.f_back
        importer = next(name for name in frames if "importlib" not in name)
        if "megatron/core" in importer and "." not in name:
            print(name)

sys.meta_path.append(Missed())
import pretrain_prealign, megatron_prealign.training.setup
"""
    result = _python(ROOT, "-c", code)
    assert result.returncode == 0, result.stderr
    known = {module for modules in optional_packages.USED.values() for module in modules}
    known |= {*optional_packages.USED, *optional_packages.OTHERS}
    assert set(result.stdout.split()) - known == set()
    assert {"transformer_engine", "apex"} <= set(result.stdout.split())
