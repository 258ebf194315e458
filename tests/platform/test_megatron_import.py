"""Training does not import what megatron-core would import for inference."""

import subprocess
import sys


def test_wandb_stays_out_until_it_is_wanted() -> None:
    code = """
import ast, inspect, sys, textwrap
import pretrain_prealign
# The imports of train(), in their order.
body = ast.parse(textwrap.dedent(inspect.getsource(pretrain_prealign.train))).body[0].body
exec(compile(ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], []), "train", "exec"))
assert "megatron.core" in sys.modules and "wandb" not in sys.modules
import wandb
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
