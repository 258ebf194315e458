"""Loading: what wins over what, and that one error names every problem with its place and fix."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_prealign.config import (
    BlendEntry,
    Config,
    ModelConfig,
    TrainingConfig,
    config_from_dict,
    dump_config,
    load_config,
    load_resolved,
)
from megatron_prealign.errors import ConfigError


@pytest.fixture
def complete(tmp_path: Path) -> list[str]:
    """Overrides that name an existing tokenizer, dataset and run folder, so that nothing is missing."""
    (tmp_path / "tokenizer.json").touch()
    for suffix in (".bin", ".idx", ".json"):
        (tmp_path / f"en_text_document{suffix}").touch()
    return [
        f"--data.tokenizer_path={tmp_path / 'tokenizer.json'}",
        "--data.blend",
        f"{{prefix: {tmp_path / 'en_text_document'}, language: en}}",
        f"--training.run_path={tmp_path / 'run'}",
    ]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems_of(argv: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(argv)
    return caught.value.problems


def test_several_values_or_none(complete: list[str]) -> None:
    for given, expected in ((["2", "3", "12"], (2, 3, 12)), (["[2, 3, 12]"], (2, 3, 12)), (["none"], None)):
        loaded = load_config([*complete, "--training.rampup_batch_size", *given])
        assert loaded.config.training.rampup_batch_size == expected


def test_later_files_win_and_the_command_line_wins_over_all(tmp_path: Path, complete: list[str]) -> None:
    first = write(tmp_path / "a.yaml", "optimizer:\n  lr: 1e-3\n  min_lr: 1e-5\ntraining:\n  seed: 1\n")
    second = write(tmp_path / "b.yaml", "optimizer:\n  lr: 2.0e-3\ntraining:\n  seed: 2\n")
    loaded = load_config(["--config", first, "--config", second, "--training.seed", "3", *complete])
    assert (loaded.config.optimizer.lr, loaded.config.optimizer.min_lr, loaded.config.training.seed) == (2e-3, 1e-5, 3)
    assert loaded.config.model == ModelConfig()
    assert loaded.places["optimizer.min_lr"] == f"{first}:3"
    assert loaded.places["optimizer.lr"] == f"{second}:2"
    assert loaded.places["training.seed"] == "command line: --training.seed"
    assert not loaded.dry_run


def test_command_line_text_becomes_the_type_of_the_field(tmp_path: Path, complete: list[str]) -> None:
    lexicons = [write(tmp_path / name, "") for name in ("a.tsv", "b.tsv")]
    argv = ["--optimizer.lr=1e-2", "--model.num-query-groups", "2", "--model.vocab_size=none", "--dry-run"]
    argv += [
        "--logging.tensorboard",
        "off",
        "--alignment.lexicon_paths",
        *lexicons,
        "--alignment.source_language",
        "no",
    ]
    loaded = load_config([*complete, *argv])
    config = loaded.config
    assert (config.optimizer.lr, config.model.num_query_groups, config.model.vocab_size) == (1e-2, 2, None)
    assert config.logging.tensorboard is False
    assert config.alignment.lexicon_paths == tuple(lexicons)
    assert config.alignment.source_language == "no"
    assert config.data.blend == (BlendEntry(prefix=str(tmp_path / "en_text_document"), language="en"),)
    assert loaded.dry_run


def test_several_datasets_in_either_form(complete: list[str], tmp_path: Path) -> None:
    entry = f"{{prefix: {tmp_path / 'en_text_document'}, weight: 2}}"
    whole = load_config([*complete, "--data.blend", f"[{entry}, {entry}]"]).config.data.blend
    apart = load_config([*complete, "--data.blend", entry, entry]).config.data.blend
    assert whole == apart
    assert [one.weight for one in whole] == [2.0, 2.0]


def test_fields_given_beside_a_preset_win_wherever_they_stand(tmp_path: Path, complete: list[str]) -> None:
    path = write(tmp_path / "a.yaml", "model:\n  num_layers: 6\n")
    model = load_config(
        ["--config", path, "--model.preset", "1b", "--model.ffn_hidden_size=64", *complete]
    ).config.model
    assert (model.num_layers, model.ffn_hidden_size) == (6, 64)
    assert (model.hidden_size, model.architecture, model.rotary_percent) == (2048, "gpt_neox", 0.25)


def test_resolved_configuration_round_trips_without_its_files(tmp_path: Path) -> None:
    config = config_from_dict(
        {
            "model": {"preset": "llama-1b", "num_layers": 2},
            "data": {"blend": [{"prefix": "nowhere/zh_text_document", "weight": "0.25", "language": "中文"}]},
            "optimizer": {"adam_eps": 1e-9},
            "alignment": {"lexicon_paths": ["no", "1e-3"], "target_language": "no"},
        }
    )
    path = write(tmp_path / "config.yaml", dump_config(config))
    assert load_resolved(path) == config
    written = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    assert {section.name for section in dataclasses.fields(Config)} == set(written)
    assert set(written["training"]) == {field.name for field in dataclasses.fields(TrainingConfig)}


def test_one_error_lists_all_problems_of_all_sources(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bad.yaml",
        "model:\n  hiden_size: 12\n  num_layers: abc\n"
        "optimiser:\n  lr: 3\n  min_lr: 1\n"
        "data:\n  blend:\n    - {prefix: a, wieght: 2}\n    - prefix: b\n      weight: x\n    - {language: en}\n"
        "schedule: cosine\n",
    )
    problems = problems_of(["--config", path, "--num-layers", "3", "--model.lr=1", "--training.stage", "pretrian"])
    expected = [
        f"{path}:13: schedule is a section: put its fields on lines below it",
        f"{path}:2: unknown key model.hiden_size; did you mean hidden_size?",
        f"{path}:5: unknown section optimiser; did you mean optimizer?",
        "command line: --num_layers: unknown option; write --model.num_layers",
        "command line: --model.lr: unknown key model.lr; it belongs to optimizer.lr",
        f"{path}:3: model.num_layers should be a valid integer, got 'abc'",
        f"{path}:9: unknown key data.blend[0].wieght; did you mean weight?",
        f"{path}:11: data.blend[1].weight should be a valid number, got 'x'",
        f"{path}:12: data.blend[2].prefix is missing; add it",
        "command line: --training.stage: training.stage should be 'align_init' or 'pretrain', got 'pretrian'; "
        "did you mean pretrain?",
    ]
    assert problems[: len(expected)] == expected
    # What follows are contradictions among the fields that could be read; none is about a field named above.
    rest = problems[len(expected) :]
    assert [problem.split()[0] for problem in rest] == ["--data.tokenizer_path", "--training.run_path"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["run.yaml"], "command line: 'run.yaml' belongs to no option; write --config FILE or --section.field VALUE"),
        (["--config"], "command line: --config needs a YAML file; write --config FILE"),
        (["--dry-run", "yes"], "command line: --dry-run takes no value, got 'yes'; leave it out"),
        (["--training.seed"], "command line: --training.seed needs a value; write --training.seed VALUE"),
        (["--training.seed", "1", "2"], "command line: --training.seed takes one value, got ['1', '2']; quote a value"),
        (["--data.blend", "[{prefix: a"], "command line: --data.blend: '[{prefix: a' is not valid YAML: expected ','"),
        (["--nonsense=1"], "command line: --nonsense: unknown option; --help lists all options"),
        (["--alignment.foo=1"], "command line: --alignment.foo: unknown key alignment.foo; --help lists all keys"),
        (["--foo.bar=1"], "command line: --foo.bar: unknown section foo; sections are model, data, parallel,"),
        (
            ["--model.preset=1bb"],
            "command line: --model.preset: model.preset: unknown preset '1bb'; choose from tiny, 150m, 400m, 1b, "
            "llama-150m, llama-400m, llama-1b, llama-8b; did you mean 1b?",
        ),
        (["--model.preset=x"], "unknown preset 'x'; choose from tiny, 150m, 400m, 1b, llama-150m,"),
        (["--optimizer.lr=nan"], "command line: --optimizer.lr: optimizer.lr should be a finite number, got 'nan'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file; check the path"),
        (["--config", "."], ".: can't be read: "),
    ],
)
def test_command_line_problems(argv: list[str], expected: str, complete: list[str]) -> None:
    problems = problems_of([*argv, *complete])
    assert len(problems) == 1
    assert expected in problems[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "model:\n  num_layers: 1\n  num_layers: 2\n",
            ":3: num_layers is given twice (first on line 2); keep one of them",
        ),
        ("model:\n  num_layers: [1\n", ":3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("- model\n", ":1: a configuration is a mapping of sections, like `model: ...`"),
        ("model: !!python/object/apply:os.getcwd []\n", ":1: model is a section: put its fields on lines below it"),
        ("model:\n  preset: !!python/name:os.getcwd x\n", ":2: not valid YAML: could not determine a constructor"),
        ("model:\n  preset: *gone\n", ":2: not valid YAML: found undefined alias 'gone'"),
        ("model:\n  num_layers: true\n", ":2: model.num_layers: must not be a boolean, got True"),
        ("model: {norm_epsilon: .inf}\n", ":1: model.norm_epsilon should be a finite number, got inf"),
        ("a: 1\n---\nb: 1\n", ":2: not valid YAML: but found another document"),
        (
            "alignment:\n  source_language: no\n",
            ":2: alignment.source_language: must not be a boolean, got False; YAML reads no, yes, on and off as "
            "booleans: quote text",
        ),
    ],
)
def test_file_problems(text: str, expected: str, tmp_path: Path, complete: list[str]) -> None:
    path = write(tmp_path / "bad.yaml", text)
    problems = problems_of(["--config", path, *complete])
    assert len(problems) == 1
    assert problems[0].startswith(path + expected)


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_bytes(b"\xff\xfe\x00model")
    assert [problem for problem in problems_of(["--config", str(path)]) if f"{path}: can't be read" in problem]


def test_empty_files_empty_sections_and_merges_are_fine(tmp_path: Path, complete: list[str]) -> None:
    empty = write(tmp_path / "empty.yaml", "# nothing\n")
    merged = write(tmp_path / "m.yaml", "model: &m\n  num_layers: 2\ndata:\ntraining:\n  train_steps: 7\n")
    config = load_config(["--config", empty, "--config", merged, *complete]).config
    assert (config.model.num_layers, config.training.train_steps) == (2, 7)
    aliased = write(tmp_path / "n.yaml", "optimizer:\n  <<: {lr: 1, min_lr: 0}\n  lr: 2\n")
    assert load_config(["--config", aliased, *complete]).config.optimizer.lr == 2


def test_contradictions_name_where_each_value_was_given(tmp_path: Path, complete: list[str]) -> None:
    path = write(tmp_path / "a.yaml", "data:\n  seq_length: 4096\n")
    problems = problems_of(["--config", path, *complete])
    assert problems == [
        "--data.seq_length 4096 is longer than --model.max_position_embeddings 1024: lower one or raise the other "
        f"[data.seq_length from {path}:2]"
    ]


def test_world_size_is_checked_where_it_is_known(complete: list[str]) -> None:
    argv = [*complete, "--parallel.tensor_model_parallel_size=2"]
    load_config(argv, world_size=2)
    with pytest.raises(ConfigError, match="world size 3 is not divisible by 2"):
        load_config(argv, world_size=3)


def test_resolved_files_must_fit_the_sections(tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml", "model: {layers: 3}\ntraining: {seed: x}\n")
    with pytest.raises(ConfigError) as caught:
        load_resolved(path)
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match=r"state\.json: model must be a mapping of fields, got 3"):
        config_from_dict({"model": 3}, "state.json")


def test_loading_needs_no_torch() -> None:
    script = (
        "import sys; from megatron_prealign.config import load_config, config_from_dict; config_from_dict({});"
        "print([m for m in ('torch', 'numpy', 'transformers', 'megatron.core', 'tyro') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
