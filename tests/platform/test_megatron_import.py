"""megatron-core is imported without what only its inference and its compiler want."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_prealign.core_import import _compiling_when_called


def test_training_imports_neither_wandb_nor_the_compiler() -> None:
    code = """
import ast, inspect, sys, textwrap
import pretrain_prealign
# The imports of train(), in their order.
body = ast.parse(textwrap.dedent(inspect.getsource(pretrain_prealign.train))).body[0].body
exec(compile(ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], []), "train", "exec"))
assert "megatron.core" in sys.modules
assert not {"wandb", "torch._inductor", "torch._dynamo"} & set(sys.modules)
import wandb
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_whatever_imports_it_first() -> None:
    code = """
import sys
import megatron_prealign.alignment
assert "megatron.core" in sys.modules
assert not {"wandb", "torch._inductor", "torch._dynamo"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_functions_are_compiled_at_their_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_now(function: Callable[[Tensor], Tensor], **options: Any) -> Callable[[Tensor], Tensor]:
        compiled.append((function.__name__, options))
        return lambda inputs: 2 * function(inputs)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_now)
    with _compiling_when_called():

        @torch.compile
        def add_one(inputs: Tensor) -> Tensor:
            return inputs + 1

        @torch.compile(dynamic=True)
        def add_two(inputs: Tensor) -> Tensor:
            return inputs + 2

    assert vars(torch)["compile"] is compile_now and compiled == []
    assert [float(add_one(torch.ones(1))) for _ in range(2)] == [4, 4]
    assert float(add_two(torch.ones(1))) == 6
    assert compiled == [("add_one", {}), ("add_two", {"dynamic": True})]
    # In a function that is compiled it is part of that one's graph.
    whole = real(lambda inputs: add_one(inputs) * 3, backend="eager", fullgraph=True)
    assert float(whole(torch.ones(1))) == 6
