"""The page of training runs: one folder, or several side by side."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_prealign.checkpoint.folder import CONFIG
from megatron_prealign.config.alignment import tap_names
from megatron_prealign.config.loading import load_resolved
from megatron_prealign.errors import DataError, PrealignError
from megatron_prealign.reports.page import html_figure, html_folded, html_page, html_table
from megatron_prealign.reports.records import LANGUAGE_NAMES, METRICS, PAIR_SETS, Record, read_records
from megatron_prealign.reports.run_plots import (
    MAX_RUNS,
    SCORES,
    Measure,
    TrainingRun,
    has_score,
    plot_by_run,
    plot_measures,
    plot_retrieval_by_tap,
    plot_tap_losses,
)

LOSSES = (
    Measure("language-modelling loss", "train", ("lm_loss",)),
    Measure("alignment loss, mean over taps", "train", ("alignment_loss",)),
)
POSITIONS = (
    Measure("training loss, ordinary positions", "train", ("ordinary_loss",)),
    Measure("training loss, switched positions", "train", ("switched_loss",)),
)
OPTIMIZER = (
    Measure("learning rate", "train", ("learning_rate",), ".2e"),
    Measure("gradient norm before clipping", "train", ("gradient_norm",), ".3g", logarithmic=True),
    Measure("parameter norm", "train", ("parameter_norm",), ".4g"),
)
SPEED = (
    Measure("tokens per second", "train", ("tokens_per_second",), ",.0f", from_zero=True),
    Measure("TFLOP/s per rank", "train", ("teraflops_per_rank",), ".3g", from_zero=True),
    Measure("MFU", "train", ("mfu",), ".1%", from_zero=True),
    Measure("share of time waiting for data", "train", ("data_wait_share",), ".2%", from_zero=True),
    Measure("seconds of validations and checkpoints", "train", ("pause_seconds",), ".2f", from_zero=True),
    Measure("memory of the fullest rank, GiB", "train", ("memory_bytes",), ".2f", from_zero=True, unit=2**30),
)


def read_runs(paths: Sequence[Path]) -> list[TrainingRun]:
    """Read run folders; a run is called by its folder's name, or by its path if two names are equal.

    Raises:
        DataError: lists every problem: missing folders, records or configurations, and lines that are not records.
    """
    problems: list[str] = []
    if len(paths) > MAX_RUNS:
        problems.append(f"{len(paths)} runs: at most {MAX_RUNS} fit into one plot; name fewer")
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        problems.append(f"{path}: named twice; name each run once")
    names = [path.resolve().name for path in paths]
    runs = []
    for path, name in zip(paths, names, strict=True):
        unique_name = name if names.count(name) == 1 else str(path)
        if (run := _read_run(path, unique_name, problems)) is not None:
            runs.append(run)
    if problems:
        raise DataError(problems)
    return runs


def _read_run(path: Path, name: str, problems: list[str]) -> TrainingRun | None:
    if not path.is_dir():
        problems.append(f"{path}: no such folder; name the training.run_path of a run")
        return None
    records = read_records(path / METRICS, problems)
    config_path = path / CONFIG
    try:
        model = load_resolved(config_path).model
    except PrealignError as error:
        problems.extend(error.problems)
        return None
    taps = tap_names(model.num_layers, tied=not model.untie_embeddings_and_output_weights)
    return TrainingRun(name, tuple(records), tuple(taps), config_path.read_text(encoding="utf-8"))


def render_runs(runs: Sequence[TrainingRun]) -> str:
    """Return the HTML of a page with the curves of all runs and their last values."""
    stages = {run.name: f"{run.records[-1]['stage']}, step {run.records[-1]['step']:,}" for run in runs}
    lead = "; ".join(f"{name}: {stage}" for name, stage in stages.items())
    by_language = _by_language(runs, "train", "language_loss", "training loss")
    validation = _by_language(runs, "valid", "loss", "validation loss")
    validation += _by_language(runs, "valid", "switched_loss", "validation loss, switched positions")
    word_sets = list(dict.fromkeys(word_set for run in runs for word_set in run.word_sets))
    retrieval = [
        Measure(
            f"P@1 {pair}, {PAIR_SETS.get(word_set, word_set)}",
            "valid",
            ("retrieval", word_set, pair, "p_at_1"),
            from_zero=True,
        )
        for word_set, pair in word_sets
    ]
    parts = [_last_values(runs, [*LOSSES, *by_language, *POSITIONS, *validation, *retrieval, *OPTIMIZER, *SPEED])]
    parts += _measure_section(
        runs, "Training loss", (*LOSSES, *by_language), "Means over the steps since the previous record, in nats."
    )
    parts += _losses_by_position(runs)
    for heading, measures, caption in (
        ("Validation loss", validation, "On the held-out part of each language's data, in nats per token."),
        ("Word retrieval, mean over taps", retrieval, _RETRIEVAL_CAPTION),
        ("Optimizer", OPTIMIZER, "At the step of each record."),
        (
            "Speed and memory",
            SPEED,
            "Since the previous record; FLOP/s are counted without recomputation.",
        ),
    ):
        parts += _measure_section(runs, heading, measures, caption)
    parts += _tap_losses(runs)
    for run in runs:
        parts += _retrieval_by_tap(run)
    parts += ["<h2>Configuration</h2>", html_folded({f"{run.name}: config.yaml": run.config for run in runs})]
    title = f"Training run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} training runs"
    return html_page(title, lead, parts)


def _by_language(runs: Sequence[TrainingRun], kind: str, name: str, title: str) -> list[Measure]:
    """Return a measure for each language that records of a kind have under a name."""
    records = [record for run in runs for record in run.records if record["kind"] == kind]
    languages = dict.fromkeys(language for record in records for language in record.get(name, {}))
    return [Measure(f"{title}, {LANGUAGE_NAMES.get(lang, lang)}", kind, (name, lang)) for lang in languages]


_RETRIEVAL_CAPTION = (
    "Share of words whose nearest word in the other language, among all measured target words, is a translation."
)


def _measure_section(
    runs: Sequence[TrainingRun], heading: str, measures: Sequence[Measure], caption: str
) -> Iterator[str]:
    measured = [measure for measure in measures if any(measure.last(run) is not None for run in runs)]
    if measured:
        alternative = f"{heading} over steps. The last values are in the table at the top of the page."
        yield f"<h2>{heading}</h2>"
        yield html_figure(plot_measures(runs, measured), alternative, caption)


def _last_values(runs: Sequence[TrainingRun], measures: Sequence[Measure]) -> str:
    """Return the last value of every measure in every run as a table."""
    rows = []
    for measure in measures:
        values = [measure.last(run) for run in runs]
        if any(value is not None for value in values):
            cells = ("-" if value is None else f"{value:{measure.format}}" for value in values)
            rows.append((measure.title, *cells))
    return html_table(["at the last record", *(run.name for run in runs)], rows)


def _losses_by_position(runs: Sequence[TrainingRun]) -> Iterator[str]:
    measured = [run for run in runs if POSITIONS[1].last(run) is not None]
    if measured:
        yield "<h2>Switched and ordinary positions</h2>"
        yield html_figure(
            plot_by_run(measured, POSITIONS, "training loss"),
            "Training loss at switched and at ordinary positions over steps, a panel for each run.",
            "At a switched position the input continues with a translation; the label is the original word. In nats.",
        )


def _tap_losses(runs: Sequence[TrainingRun]) -> Iterator[str]:
    measured = [run for run in runs if any(record.get("tap_loss") for record in run.records)]
    if measured:
        yield "<h2>Alignment loss by tap</h2>"
        yield html_figure(
            plot_tap_losses(measured),
            "Alignment loss of each tap over steps, a panel for each run.",
            "From the embedding output (dashed) through the layers to the output embedding (dotted).",
        )


def _retrieval_by_tap(run: TrainingRun) -> Iterator[str]:
    """Yield a plot and a table for each word set of a run."""
    for word_set, pair in run.word_sets:
        title = f"{run.name}: retrieval {pair}, {PAIR_SETS.get(word_set, word_set)}"
        last = [record for record in run.records if pair in record.get("retrieval", {}).get(word_set, {})][-1]
        scores = last["retrieval"][word_set][pair]
        rows = [
            (label, *("-" if value is None else f"{value:.3f}" for value in scores[name]))
            for name, label in SCORES.items()
            if has_score(run, word_set, pair, name)
        ]
        yield f"<h2>{html.escape(title)}</h2>"
        yield html_figure(
            plot_retrieval_by_tap(run, word_set, pair),
            f"{title}: scores by tap over steps. The table below the plot has the numbers of step {last['step']}.",
            _describe_words(scores),
        )
        yield f"<details><summary>Step {last['step']:,} in numbers</summary>"
        yield html_table(["score", *(tap.replace("_", " ") for tap in run.taps)], rows) + "</details>"


def _describe_words(scores: Record) -> str:
    """Describe the words of a measurement."""
    counts = f"{scores['num_source_words']:,} source words among {scores['num_target_words']:,} target words"
    known = scores.get("num_known_source_words")
    rule = "all tokens, translations included, occur in trained words (known tokens)"
    apart = "" if known is None else f"; of {known:,} {rule}"
    return f"{counts}{apart}. Anisotropy: mean cosine of a source and a target word that are not a pair."
