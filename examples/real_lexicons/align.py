"""Align-init on real dictionaries: English-German and English-Chinese, compared with language modelling alone.

Every step is a command line that is printed and can also be run by hand. Finished steps are reused.

    python examples/real_lexicons/align.py
    python examples/real_lexicons/align.py --output runs/real_lexicons_long --steps 1000
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from megatron_prealign.command_line import tool
from megatron_prealign.errors import ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.commands import make_export, make_step, make_training
from examples.real_lexicons.data import RealData
from examples.steps import Runner, Step, absolute_path, example_parser, run_example, side_by_side_environment

EXAMPLE = Path("examples/real_lexicons")
STAGES = {"align_init": "align_init", "lm_only": "pretrain"}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = example_parser(__doc__, "runs/real_lexicons")
    parser.add_argument("--steps", type=int, default=250, help="optimizer steps of both runs")
    parser.add_argument("--num-words", type=int, default=5000, help="English words, the most frequent ones")
    parser.add_argument("--max-translations", type=int, default=2, help="translations of a word in each language")
    parser.add_argument("--vocab-size", type=int, default=16000, help="tokens for all three languages")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights, data order and held-out words")
    parser.add_argument("--packages", type=absolute_path, help="folder of packages that are downloaded already")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Experiment:
    """The steps of the experiment, as command lines."""

    arguments: argparse.Namespace

    @property
    def folder(self) -> Path:
        """Folder of everything."""
        return Path(self.arguments.output)

    @cached_property
    def data(self) -> RealData:
        """Text, dictionaries, tokenizer and baked datasets."""
        chosen = self.arguments
        return RealData(
            folder=self.folder,
            num_words=chosen.num_words,
            max_translations=chosen.max_translations,
            vocab_size=chosen.vocab_size,
            seed=chosen.seed,
            packages=chosen.packages,
        )

    @property
    def lexicons(self) -> tuple[Path, Path]:
        """Trained and held-out word pairs."""
        return self.data.lexicons

    def bake(self) -> list[Step]:
        """Bake the text of each language."""
        return [self.data.bake_step(language) for language in self.data.all_languages]

    def train(self, name: str) -> Step:
        """Train one of the two runs through torchrun, on one process; both measure the same word pairs."""
        run = self.folder / name
        blend = [
            {"prefix": str(self.data.dataset(language)), "weight": 1.0, "language": language}
            for language in self.data.all_languages
        ]
        options: list[object] = ["--training.stage", STAGES[name], "--training.train_steps", self.arguments.steps]
        options += ["--training.seed", self.arguments.seed, "--data.tokenizer_path", self.data.tokenizer]
        trained, held_out = self.lexicons
        options += ["--alignment.lexicon_paths", trained, "--alignment.held_out_lexicon_paths", held_out]
        options += ["--data.blend", json.dumps(blend)]
        return make_training(name, [EXAMPLE / "model.yaml"], run, options, self.data.lexicon_step, *self.bake())

    def chain(self, name: str) -> Iterator[Step]:
        """Yield training, export and evaluation of one run."""
        trained = self.train(name)
        yield trained
        exported = self.export(name)
        yield exported
        result = self.folder / f"{name}_evaluation.json"
        command: list[object] = ["tools/evaluate.py", "--model", self.folder / f"{name}_huggingface"]
        command += ["--source-language", "en", "--lexicon", self.lexicons[0], "--held-out-lexicon", self.lexicons[1]]
        yield make_step(f"{name}_evaluate", [*command, "--output", result], [result], exported)

    def export(self, name: str) -> Step:
        """Export a run to Hugging Face."""
        return make_export(f"{name}_export", self.folder / name, self.folder / f"{name}_huggingface", self.train(name))

    def report(self) -> list[Step]:
        """Break the held-out words down, and plot both runs."""
        analysis, page = self.folder / "analysis.json", self.folder / "curves.html"
        command: list[object] = [EXAMPLE / "analysis.py", "--lexicon", self.lexicons[0], "--held-out", self.lexicons[1]]
        for name in STAGES:
            command += ["--model", f"{name}={self.folder / name}_huggingface"]
        plot = ["tools/plot_run.py", *(self.folder / name for name in STAGES), "--output", page]
        return [
            make_step("analysis", [*command, "--output", analysis], [analysis], *map(self.export, STAGES)),
            make_step("plot", plot, [page], *map(self.train, STAGES)),
        ]


def run(experiment: Experiment, runner: Runner) -> None:
    """Run all steps.

    Raises:
        ConfigError: no steps to train.
    """
    if experiment.arguments.steps < 1:
        raise ConfigError("--steps must be at least 1")
    runner.run_stages(
        [
            ("Download dictionaries and text", [experiment.data.texts_step]),
            ("Make the lexicon", [experiment.data.dictionaries_step, experiment.data.lexicon_step]),
            ("Train a tokenizer, bake the text", [experiment.data.tokenizer_step, *experiment.bake()]),
            ("Train with and without alignment, export, evaluate", {name: experiment.chain(name) for name in STAGES}),
            ("Break down and plot", experiment.report()),
        ]
    )


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = parse_arguments(argv)
    return run_example(arguments, lambda runner: run(Experiment(arguments), runner), side_by_side_environment())


if __name__ == "__main__":
    raise SystemExit(main())
