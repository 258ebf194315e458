"""The commands that several examples run, as steps."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.steps import Step


def make_step(name: str, command: Sequence[object], outputs: Sequence[Path], *depends_on: Step, **options: Any) -> Step:
    """Make a step that runs a Python script of the repository."""
    words = (sys.executable, *map(str, command))
    return Step(name, words, tuple(outputs), depends_on, **options)


def make_bake(name: str, prefix: Path, command: Sequence[object], *before: Step) -> Step:
    """Make a step that bakes a dataset of the given prefix."""
    outputs = [Path(f"{prefix}_text_document{suffix}") for suffix in (".bin", ".idx", ".json")]
    words = ["tools/preprocess_codeswitch.py", "--append-eod", "--json-key", "text", "--output-prefix", prefix]
    # Whether there are files of switches, too, is known after the bake.
    return make_step(name, [*words, "--overwrite", *command], outputs, *before)


def make_training(
    name: str, configs: Sequence[Path], run: Path, options: Sequence[object], *before: Step, processes: int = 1
) -> Step:
    """Make a step that trains one stage through torchrun.

    Args:
        name: of the step.
        configs: YAML files, later ones win.
        run: the run's folder.
        options: of the command line, over the files.
        before: steps that made what it reads.
        processes: ranks, on this machine.
    """
    command: list[object] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command.append("pretrain_prealign.py")
    command += [word for path in configs for word in ("--config", path)]
    command += ["--training.run_path", run, *options]
    return make_step(name, command, [run], *before, inputs=tuple(configs), resumable=True)


def make_export(name: str, run: Path, export: Path, *before: Step) -> Step:
    """Make a step that exports a run to a Hugging Face folder."""
    command = ["tools/convert_checkpoint.py", "to-hf", "--checkpoint", run, "--output", export]
    return make_step(name, command, [export], *before)


def make_permutation(name: str, lexicon: Path, output: Path, ratio: float, *before: Step) -> Step:
    """Make a step that deals the translations of a share of a lexicon's words to other words."""
    command = ["examples/permute_lexicon.py", "--lexicon", lexicon, "--ratio", ratio, "--output", output]
    return make_step(name, command, [output], *before)


def last_tokens(metrics_path: Path) -> int:
    """Return the tokens a run has seen at its last record, word tokens counted."""
    lines = metrics_path.read_text(encoding="utf-8").splitlines()
    return max(int(json.loads(line)["tokens"]) for line in lines)
