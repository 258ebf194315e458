"""The demo's experiment: valid configurations, equal token budgets, steps that name each other's files."""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from examples.paper.english_clone import run
from examples.steps import Step
from megatron_prealign.config.loading import load_resolved
from megatron_prealign.errors import ConfigError

EXAMPLE = Path(run.__file__).parent


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> run.Experiment:
    monkeypatch.chdir(EXAMPLE.parents[2])
    arguments = run.parse_arguments(["--output", str(tmp_path), "--steps", "100", "--align-steps", "10"])
    assert isinstance(arguments, Namespace)
    return run.Experiment(arguments)


@pytest.mark.parametrize("path", sorted(EXAMPLE.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_hold_only_known_fields(path: Path) -> None:
    load_resolved(path)


def test_methods_share_model_optimizer_and_batches() -> None:
    shared = load_resolved(EXAMPLE / "model.yaml")
    stages = {name: load_config_file(name) for name in ("joint", "align_init", "pretrain")}
    assert all({"model", "optimizer"}.isdisjoint(sections) for sections in stages.values())
    assert all("global_batch_size" not in stages[name]["training"] for name in ("joint", "pretrain"))
    assert run.tokens_per_step(EXAMPLE) == shared.training.global_batch_size * shared.data.seq_length


def load_config_file(name: str) -> dict[str, dict[str, object]]:
    """Return a configuration of the example as it is written."""
    content: dict[str, dict[str, object]] = yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text())
    return content


@pytest.mark.parametrize("seen", [0, 1, 511, 512, 513, 4 * 1024 + 700])
def test_both_methods_see_the_same_tokens_to_within_one_step(seen: int) -> None:
    assert abs(run.remaining_steps(100, 1024, seen) * 1024 + seen - 100 * 1024) <= 512


@pytest.mark.parametrize("words", [0.0, 100.4, 372.6])
def test_words_of_stage_two_are_tokens_too(words: float) -> None:
    steps = run.remaining_steps(100, 1024, 10_000, words)
    assert abs(steps * (1024 + words) + 10_000 - 100 * 1024) <= (1024 + words) / 2


def test_stage_one_must_leave_tokens_for_stage_two() -> None:
    with pytest.raises(ConfigError, match="--align-steps"):
        run.remaining_steps(10, 1024, 10 * 1024)


def chain_after_stage_one(experiment: run.Experiment, tokens: int) -> Iterator[Step]:
    """Yield PreAlign's steps as if stage 1 had ended after a number of tokens."""
    chain = experiment.prealign(seed=1)
    first = next(chain)
    first.outputs[0].mkdir(parents=True)
    (first.outputs[0] / "metrics.jsonl").write_text(f'{{"tokens": {tokens // 2}}}\n{{"tokens": {tokens}}}\n')
    yield first
    yield from chain


def test_stage_two_gets_what_stage_one_left_and_starts_from_it(experiment: run.Experiment) -> None:
    first, second, *_ = chain_after_stage_one(experiment, tokens=12 * run.tokens_per_step(EXAMPLE))
    command = list(second.command)
    assert command[command.index("--training.train_steps") + 1] == "88"
    assert command[command.index("--checkpoint.init_from") + 1] == str(first.outputs[0])


def test_alignment_is_kept_with_the_tokens_of_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[2])
    experiment = run.Experiment(run.parse_arguments(["--output", str(tmp_path), "--steps", "100", "--maintain"]))
    chain = experiment.prealign(seed=1)
    first = next(chain)
    first.outputs[0].mkdir(parents=True)
    alignment = load_config_file("align_init")["alignment"]
    # Four tokens an entry: a word and its translation have two each.
    record = {
        "kind": "train",
        "step": 10,
        "tokens": 30_720,
        "word_tokens": 10 * 4 * int(str(alignment["word_batch_size"])),
    }
    lines = [record, {"kind": "valid", "step": 10, "tokens": 30_720}]
    (first.outputs[0] / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = list(next(chain).command)
    kept = load_config_file("pretrain_maintained")["alignment"]
    words = 4 * int(str(kept["word_batch_size"])) / int(str(kept["maintain_interval"]))
    steps = command[command.index("--training.train_steps") + 1]
    assert int(steps) == round((100 - 10) * 3072 / (3072 + words))
    assert str(EXAMPLE.relative_to(EXAMPLE.parents[2]) / "pretrain_maintained.yaml") in command
    assert "--alignment.lexicon_paths" in command


def test_kept_alignment_is_all_that_its_configuration_adds() -> None:
    plain, kept = load_config_file("pretrain"), load_config_file("pretrain_maintained")
    assert kept.pop("alignment")["maintain_interval"]
    assert kept == plain


def test_every_step_reads_only_what_a_step_before_it_made(experiment: run.Experiment) -> None:
    steps = [experiment.data.corpus_step, experiment.data.tokenizer_step, *experiment.data.clone_steps]
    steps += experiment.bake()
    steps += [*experiment.joint(seed=1), *chain_after_stage_one(experiment, tokens=4096)]
    folder = str(experiment.arguments.output)
    made: set[str] = set()
    for step in steps:
        made.update(str(path) for path in step.outputs)
        named = [word.partition("=")[2] or word for word in step.command if folder in word and "blend" not in word]
        for path in named:
            if path.startswith(folder):
                assert any(path.startswith((output, output.removesuffix("_text_document.bin"))) for output in made), (
                    step.name,
                    path,
                )


def test_clone_and_english_training_text_are_different_documents(experiment: run.Experiment) -> None:
    english, switched, clone = ([*step.command] for step in experiment.bake())
    assert english[english.index("--input") + 1] == switched[switched.index("--input") + 1]
    assert english[english.index("--input") + 1].endswith("english.jsonl")
    source = experiment.data.clone_steps[0].command
    assert source[source.index("--input") + 1].endswith("clone_source.jsonl")
    assert clone[clone.index("--input") + 1] == source[source.index("--output-text") + 1]
