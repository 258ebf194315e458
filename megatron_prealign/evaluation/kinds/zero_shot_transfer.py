"""Zero-shot cross-lingual transfer: fine-tune on a task in one language, test in others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from statistics import mean, stdev

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from rich.table import Table

from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.frame import Evaluation, Paths, Progress, Results, as_title, cell, problems_of
from megatron_prealign.evaluation.labelled import Example, Keys, TransferTask, fetch_task, read_task


@dataclass(frozen=True, kw_only=True)
class Options:
    """The task, from files (`train` and `test`) or from a hub (`task`), and how to fine-tune."""

    train: Paths = ()
    """JSONL files of the source language, each line with a text and its label."""

    test: dict[str, Paths] = field(default_factory=dict)
    """JSONL files by language; the source language must be among them."""

    task: str | None = None
    """xnli or paws-x from the Hugging Face hub, instead of files."""

    task_languages: tuple[str, ...] = ()
    """Further languages to test `task` in."""

    source_language: str = "en"
    """Language of the training data."""

    text_key: str = "text"
    """Key of the text."""

    pair_key: str | None = None
    """Key of a second text, for tasks on pairs of texts."""

    label_key: str = "label"
    """Key of the label."""

    seeds: tuple[NonNegativeInt, ...] = (1, 2, 3)
    """One fine-tuning each, with its own new head and order of examples."""

    epochs: PositiveInt = 3
    """Passes over the training data."""

    batch_size: PositiveInt = 32
    """Examples of a step."""

    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate, reached after a tenth of the steps, then falling linearly to 0; use 1e-3 for models of a few
    million parameters."""

    max_tokens: PositiveInt = 128
    """Most tokens of an example; the rest is cut off."""


def check(options: Options) -> list[str]:
    """Return what is wrong with the task."""
    problems = []
    if find_spec("accelerate") is None:
        problems.append("Hugging Face's Trainer needs accelerate; pip install 'megatron-prealign[eval]'")
    if len(set(options.seeds)) < max(len(options.seeds), 1):
        problems.append(f"seeds is {list(options.seeds)}; give at least one seed, and no seed twice")
    if bool(options.task) == bool(options.train or options.test):
        problems.append("give either train and test, or task")
    elif not options.task and not (options.train and options.test):
        problems.append("train and test belong together: give both")
    return problems or problems_of(lambda: _read(options))


def run(folder: ModelFolder, options: Options, progress: Progress) -> Results:
    """Return labels, num_train, and languages: accuracy over seeds with interval, deviation and chance."""
    from megatron_prealign.evaluation.fine_tuning import Tuning, fine_tune_and_test

    task = _read(options)
    tuning = Tuning(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        max_tokens=options.max_tokens,
    )
    right: dict[str, list[list[bool]]] = {language: [] for language in task.test}
    for seed in options.seeds:
        shown = partial(progress, part=f"seed {seed}")
        for language, flags in fine_tune_and_test(folder, task.train, task.test, tuning, seed, shown).items():
            right[language].append(flags)
    return {
        "source_language": task.source,
        "labels": task.labels,
        "num_train": len(task.train),
        "languages": {language: summarise(task.test[language], flags) for language, flags in right.items()},
    }


def summarise(examples: list[Example], right: list[list[bool]]) -> Results:
    """Return the accuracy in one language.

    Args:
        examples: test examples.
        right: [seeds, examples], whether each was classified right.
    """
    by_seed = [mean(flags) for flags in right]
    low, high = bootstrap_interval(right)
    labels = [example.label for example in examples]
    return {
        "accuracy": mean(by_seed),
        "low": low,
        "high": high,
        "deviation": stdev(by_seed) if len(by_seed) > 1 else None,
        "by_seed": by_seed,
        "chance": max(map(labels.count, set(labels))) / len(labels),
        "num_examples": len(examples),
    }


def bootstrap_interval(right: Sequence[Sequence[bool]], num_draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of a mean accuracy, resampling seeds and examples.

    The same examples are drawn for all seeds, so that a few seeds do not make a small test set look large.

    Args:
        right: [seeds, examples], whether each example was right.
        num_draws: bootstrap samples.
    """
    scores = np.asarray(right, dtype=np.float64)
    num_seeds, num_examples = scores.shape
    generator = np.random.Generator(np.random.PCG64(0))
    means = np.empty(num_draws)
    for draw in range(num_draws):
        seeds = generator.integers(num_seeds, size=num_seeds)
        examples = generator.integers(num_examples, size=num_examples)
        means[draw] = scores[seeds].mean(axis=0)[examples].mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def tables(name: str, results: Results) -> Iterator[Table]:
    """Yield a table with one row per language."""
    title = f"{as_title(name)}, trained in {results['source_language']}"
    table = Table("language", "accuracy", "95 % interval", "deviation", "chance", "examples", title=title)
    for language, row in results["languages"].items():
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        numbers = (cell(row["accuracy"]), interval, cell(row["deviation"]), cell(row["chance"]))
        table.add_row(language, *numbers, f"{row['num_examples']:,}")
    yield table


def _read(options: Options) -> TransferTask:
    if options.task:
        return fetch_task(options.task, options.source_language, options.task_languages)
    keys = Keys(text=options.text_key, pair=options.pair_key, label=options.label_key)
    return read_task(options.source_language, options.train, options.test, keys)


EVALUATION = Evaluation(Options, check, run, tables)
