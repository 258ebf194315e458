"""The whole experiment: English and English-Clone, joint training against PreAlign, in about ten minutes on 2 cores.

Every step is one of the public command lines; each is printed as it runs and can be typed by hand. Finished steps
are reused, so an interrupted experiment continues where it stopped.

    python examples/paper/english_clone/run.py                 # one seed
    python examples/paper/english_clone/run.py --seeds 3       # mean and deviation over three
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import yaml

from megatron_prealign.command_line import tool
from megatron_prealign.errors import ConfigError
from megatron_prealign.reports.records import METRICS

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from examples.commands import last_tokens, make_export, make_step, make_training
from examples.paper.english_clone.comparison import Row, Run, compare, read_run, rows_as_json, text_table
from examples.paper.english_clone.comparison_page import Page, render_page
from examples.paper.english_clone.data import CloneData
from examples.steps import (
    Runner,
    Stage,
    Step,
    absolute_path,
    count_cores,
    example_parser,
    run_example,
    side_by_side_environment,
    write_json,
    write_text,
)

EXAMPLE = Path("examples/paper/english_clone")
BASELINE, METHOD = "joint", "PreAlign"
CLONE_SHARE = 0.05


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = example_parser(__doc__, "runs/english_clone")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds: 1, 2, ...")
    parser.add_argument("--steps", type=int, default=540, help="optimizer steps of joint training")
    parser.add_argument("--align-steps", type=int, default=160, help="optimizer steps of PreAlign's stage 1")
    parser.add_argument("--maintain", action="store_true", help="keep the alignment loss in stage 2, beyond the paper")
    parser.add_argument("--codeswitch-ratio", type=float, default=0.15, help="share of covered words switched, [0, 1]")
    parser.add_argument("--max-words", type=int, default=5000, help="most frequent words of the text in the lexicons")
    parser.add_argument("--held-out-ratio", type=float, default=0.1, help="share of words kept from PreAlign, [0, 1)")
    parser.add_argument("--vocab-size", type=int, default=4000, help="tokens of English; its clone has as many again")
    parser.add_argument("--bible-wheel", type=absolute_path, help="wheel of bible-alignments, to run without network")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Experiment:
    """The steps of the experiment, as command lines."""

    arguments: argparse.Namespace

    @cached_property
    def data(self) -> CloneData:
        """Text, tokenizers, lexicons and baked datasets."""
        chosen = self.arguments
        folder = Path(chosen.output) / "data"
        return CloneData(folder, chosen.vocab_size, chosen.max_words, chosen.held_out_ratio, chosen.bible_wheel)

    def bake(self) -> list[Step]:
        """Bake plain English, code-switched English and English-Clone."""
        data = self.data
        return [
            data.bake_step("english", data.text("english")),
            data.switch_step("english_switched", data.lexicons[0], self.arguments.codeswitch_ratio),
            data.bake_step("clone", data.folder / "clone.jsonl"),
        ]

    def train(self, name: str, config: str, english: str, steps: int, seed: int, *options: object) -> Step:
        """Train one stage through torchrun, on one process."""
        run = self.seed_folder(seed) / name
        blend = [
            {"prefix": str(self.data.dataset(english)), "weight": 1 - CLONE_SHARE, "language": "en"},
            {"prefix": str(self.data.dataset("clone")), "weight": CLONE_SHARE, "language": "clone"},
        ]
        configs = [EXAMPLE / "model.yaml", EXAMPLE / config]
        settings: list[object] = ["--training.seed", seed, "--training.train_steps", steps]
        settings += ["--data.tokenizer_path", self.data.tokenizer, "--data.blend", json.dumps(blend), *options]
        return make_training(f"{name}_{seed}", configs, run, settings, *self.bake())

    def joint(self, seed: int) -> Iterator[Step]:
        """Yield the steps of joint training."""
        training = self.train("joint", "joint.yaml", "english", self.arguments.steps, seed)
        yield training
        yield from self.finish("joint", seed, training)

    def prealign(self, seed: int) -> Iterator[Step]:
        """Yield the steps of both stages; stage 2 gets the tokens that stage 1 left of joint training's."""
        trained, held_out = self.data.lexicons
        lexicon = ["--alignment.lexicon_paths", trained, "--alignment.held_out_lexicon_paths", held_out]
        steps = self.arguments.align_steps
        first = self.train("align_init", "align_init.yaml", "english", steps, seed, *lexicon)
        yield first
        start = self.seed_folder(seed) / "align_init"
        config, options, words = "pretrain.yaml", ["--checkpoint.init_from", start], 0.0
        if self.arguments.maintain:
            config, options, words = "pretrain_maintained.yaml", [*options, *lexicon], word_tokens_per_step(start)
        seen = last_tokens(start / METRICS)
        remaining = remaining_steps(self.arguments.steps, tokens_per_step(), seen, words)
        second = self.train("prealign", config, "english_switched", remaining, seed, *options)
        yield second
        yield from self.finish("prealign", seed, first, second)

    def finish(self, name: str, seed: int, *trained: Step) -> Iterator[Step]:
        """Yield the export of a run to Hugging Face, and the evaluation of the export."""
        export = self.seed_folder(seed) / f"{name}_huggingface"
        exported = make_export(f"{name}_{seed}_export", self.seed_folder(seed) / name, export, *trained)
        yield exported
        result = self.seed_folder(seed) / f"{name}_evaluation.json"
        command: list[object] = ["tools/evaluate.py", "--model", export, "--source-language", "en", "--output", result]
        for language, path in self.data.validation_texts.items():
            command += ["--text", f"{language}={path}"]
        trained_words, held_out_words = self.data.lexicons
        command += ["--lexicon", trained_words, "--held-out-lexicon", held_out_words]
        yield make_step(f"{name}_{seed}_evaluate", command, [result], exported)

    def seed_folder(self, seed: int) -> Path:
        """Return the folder of everything that depends on a seed."""
        return Path(self.arguments.output) / f"seed_{seed}"

    def compare(self) -> "Outcome":
        """Read the results of all seeds."""
        runs = []
        for seed in range(1, self.arguments.seeds + 1):
            folder = self.seed_folder(seed)
            for method, stages in ((BASELINE, ("joint",)), (METHOD, ("align_init", "prealign"))):
                metrics = [folder / stage / METRICS for stage in stages]
                runs.append(read_run(method, seed, metrics, folder / f"{stages[-1]}_evaluation.json"))
        return Outcome(runs, compare(runs, BASELINE, METHOD))


@dataclass(frozen=True)
class Outcome:
    """What the experiment found."""

    runs: list[Run]
    """Both methods, all seeds."""
    rows: list[Row]
    """The comparison."""

    def expectations(self) -> list[tuple[str, bool]]:
        """Return what PreAlign promises, and whether it held."""
        rows = {row.name: row for row in self.rows}
        english, clone = rows["English perplexity"], rows["English-Clone perplexity"]
        held_out = rows["Retrieval en-clone, held-out words"]
        seeds = len(clone.baseline)
        return [
            (f"English-Clone perplexity at most 0.75 of joint training's: {clone.ratio:.2f}", clone.ratio <= 0.75),
            (f"English perplexity at most 2 % worse: {100 * (english.ratio - 1):+.1f} %", english.ratio <= 1.02),
            ("held-out words retrieved more often for every seed", held_out.num_seeds_better == seeds),
            ("English-Clone perplexity lower for every seed", clone.num_seeds_better == seeds),
        ]


def tokens_per_step(example: Path = EXAMPLE) -> int:
    """Return the tokens of one step of language modelling."""
    config = yaml.safe_load((example / "model.yaml").read_text(encoding="utf-8"))
    return int(config["training"]["global_batch_size"]) * int(config["data"]["seq_length"])


def word_tokens_per_step(align_init: Path, example: Path = EXAMPLE) -> float:
    """Return the mean tokens of words in a step of stage 2 that keeps the alignment, from those stage 1 counted."""
    stage_1, stage_2 = (
        yaml.safe_load((example / name).read_text(encoding="utf-8"))["alignment"]
        for name in ("align_init.yaml", "pretrain_maintained.yaml")
    )
    lines = (align_init / METRICS).read_text(encoding="utf-8").splitlines()
    last = [record for record in map(json.loads, lines) if record["kind"] == "train"][-1]
    tokens_an_entry = last["word_tokens"] / last["step"] / stage_1["word_batch_size"]
    return float(tokens_an_entry * stage_2["word_batch_size"] / stage_2["maintain_interval"])


def remaining_steps(joint_steps: int, step_tokens: int, tokens_seen: int, word_tokens: float = 0.0) -> int:
    """Return the steps of stage 2 with which PreAlign sees the tokens of joint training, to within one step.

    Args:
        joint_steps: steps of joint training.
        step_tokens: tokens of text in a step, of both.
        tokens_seen: tokens of stage 1.
        word_tokens: mean tokens of words in a step of stage 2.

    Raises:
        ConfigError: stage 1 has used them up.
    """
    remaining = round((joint_steps * step_tokens - tokens_seen) / (step_tokens + word_tokens))
    if remaining < 1:
        raise ConfigError(
            f"stage 1 saw {tokens_seen} tokens, joint training sees {joint_steps * step_tokens}: nothing is left for "
            "stage 2; lower --align-steps or raise --steps"
        )
    return remaining


def describe_run(experiment: Experiment, runner: Runner) -> dict[str, Any]:
    """Return what the numbers depend on: arguments, configurations, versions, durations."""
    packages = ("torch", "megatron-core", "transformers", "tokenizers", "numpy")
    markers = {path.stem: json.loads(path.read_text()) for path in sorted((runner.folder / "steps").glob("*.json"))}
    return {
        "arguments": {name: str(value) for name, value in vars(experiment.arguments).items()},
        "configuration": {path.name: path.read_text() for path in sorted(EXAMPLE.glob("*.yaml"))},
        "versions": {"python": python_version(), **{name: version(name) for name in packages}},
        "cores": count_cores(),
        "seconds": round(time.monotonic() - runner.started, 1),
        "step_seconds": {name: marker.get("seconds") for name, marker in markers.items()},
    }


def write_report(experiment: Experiment, runner: Runner, outcome: Outcome) -> None:
    """Write demo-results.json and report.html, and show the table."""
    details = describe_run(experiment, runner)
    expectations = outcome.expectations()
    rows = rows_as_json(outcome.rows, BASELINE, METHOD)
    evaluations = [{"method": run.method, "seed": run.seed, **run.evaluation} for run in outcome.runs]
    checks = dict(expectations)
    write_json(
        runner.folder / "demo-results.json",
        {"table": rows, "expectations": checks, "evaluations": evaluations, **details},
    )
    total = max(record["tokens"] for record in outcome.runs[0].metrics)
    page = Page(
        title="PreAlign against joint training on English-Clone",
        lead=f"Both see {total / 1e6:.2f} million tokens, 5 % of the text in English-Clone, with the same model, seeds "
        "and optimizer. PreAlign spends the first of them on aligning words (stage 1), word tokens counted.",
        baseline=BASELINE,
        method=METHOD,
        pair="en-clone",
        num_layers=int(yaml.safe_load(details["configuration"]["model.yaml"])["model"]["num_layers"]),
        notes=tuple(f"{'✓' if held else '✗'} {text}" for text, held in expectations),
        details={
            "Versions, arguments, durations": {k: v for k, v in details.items() if k != "configuration"},
            **details["configuration"],
        },
    )
    write_text(runner.folder / "report.html", render_page(page, outcome.rows, outcome.runs))
    runner.console.print(text_table(outcome.rows, BASELINE, METHOD))
    for text, held in expectations:
        runner.console.print(f"  [green]✓[/] {text}" if held else f"  [red]✗[/] {text}", highlight=False)
    runner.console.print(f"\nPlots:   {runner.folder / 'report.html'}", highlight=False)
    runner.console.print(f"Numbers: {runner.folder / 'demo-results.json'}", highlight=False)


def run(experiment: Experiment, runner: Runner) -> None:
    """Run all steps and report.

    Raises:
        ConfigError: numbers of seeds or steps that leave nothing to do.
    """
    arguments = experiment.arguments
    if arguments.seeds < 1 or arguments.align_steps < 1 or arguments.steps <= arguments.align_steps:
        raise ConfigError("--seeds and --align-steps must be at least 1, and --steps more than --align-steps")
    stages: list[tuple[str, Stage]] = [
        ("Collect English text from what is installed", [experiment.data.corpus_step]),
        ("Train a tokenizer", [experiment.data.tokenizer_step]),
        ("Make English-Clone: tokenizer, text, lexicon", experiment.data.clone_steps),
        ("Bake datasets: plain, code-switched, clone", experiment.bake()),
    ]
    for seed in range(1, arguments.seeds + 1):
        chains = {"joint": experiment.joint(seed), "prealign": experiment.prealign(seed)}
        stages.append((f"Train, export and evaluate both methods, seed {seed}", chains))
    stages.append(("Compare", lambda: write_report(experiment, runner, experiment.compare())))
    runner.run_stages(stages)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = parse_arguments(argv)
    return run_example(arguments, lambda runner: run(Experiment(arguments), runner), side_by_side_environment())


if __name__ == "__main__":
    raise SystemExit(main())
