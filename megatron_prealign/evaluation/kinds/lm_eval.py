"""Tasks of lm-evaluation-harness: XNLI, XCOPA, XStoryCloze, PAWS-X and others by name, or from local task files."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from megatron_prealign.config.conversion import did_you_mean
from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.frame import Evaluation, Paths, Progress, Results
from megatron_prealign.text.frame import document_frame


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which tasks to run, and how."""

    tasks: Paths
    """Names, groups or patterns: xnli, xcopa_zh, xstorycloze_*, pawsx, or those of local task files."""

    include_path: Paths = ()
    """Folders of local task files; a task file can name Python functions, which are executed."""

    num_fewshot: NonNegativeInt | None = None
    """Examples before each question; none = the task's default."""

    limit: PositiveInt | None = None
    """Most documents per task; none = all."""

    batch_size: PositiveInt = 16
    """Requests at once."""


def check(options: Options) -> list[str]:
    """Return which tasks do not exist; whether their data can be downloaded shows only when they run."""
    if importlib.util.find_spec("lm_eval") is None:
        return ["lm-eval is not installed; pip install 'megatron-prealign[eval]'"]
    problems = [f"include_path {path}: no such folder" for path in options.include_path if not Path(path).is_dir()]
    if problems:
        return problems
    manager = _manager(options.include_path)
    for name in options.tasks:
        if not manager.match_tasks([name]):
            hint = did_you_mean(name, manager.all_tasks) or "; `lm-eval ls tasks` lists them"
            problems.append(f"lm-eval has no task {name!r}{hint}")
    return problems


def run(folder: ModelFolder, options: Options, progress: Progress) -> Results:
    """Return by task and group num_documents and the scores that lm-eval gives, like acc and acc_stderr."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    manager = _manager(options.include_path)
    names = manager.match_tasks(list(options.tasks))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder.path)
    model = HFLM(
        pretrained=folder.model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=options.batch_size,
        # Without it, releases of the harness differ in what they do.
        add_bos_token=bool(document_frame(folder.tokenizer).start),
    )
    try:
        found = simple_evaluate(
            model,
            tasks=names,
            num_fewshot=options.num_fewshot,
            limit=options.limit,
            task_manager=manager,
            log_samples=False,
        )
    except OSError as error:
        # datasets and huggingface_hub raise it without network and for missing files.
        reason = " ".join(str(error).split())
        raise DataError(
            f"the data of {', '.join(names)} can't be downloaded ({reason}); run it where the hub is reachable, or "
            "give local task files with include_path"
        ) from None
    progress(len(names), len(names))
    return {
        task: {"num_documents": found["n-samples"].get(task, {}).get("effective")} | _scores(values)
        for task, values in found["results"].items()
    }


def _scores(values: dict[str, Any]) -> dict[str, float]:
    """Return numbers by metric; lm-eval calls them `metric,filter`, usually without a filter."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and "," in name
    }


@cache
def _manager(include_path: Sequence[str]) -> Any:
    """Return lm-eval's list of tasks; reading it takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(include_path) or None)


EVALUATION = Evaluation(Options, check, run)
