"""What experiments say: every file in the repository is sound, and everything wrong with one is named at once."""

from pathlib import Path

import pytest

from examples.paper.experiments.specs import FOLDER, find_experiment, read_experiments, read_scale
from megatron_prealign.errors import DataError
from tests.examples.paper.experiments.grid_fixtures import read, write_experiment

EXPERIMENTS = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name not in ("methods.yaml", "measures.yaml"))

PERPLEXITY = {"evaluation": "perplexity", "texts": {"en": "{valid_en}"}}
MEASURED = {"measures": ["perplexity.en.perplexity"], "claims": []}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_of_the_repository_are_sound(name: str) -> None:
    scale = "real" if "recipe: descriptions" in (FOLDER / name).read_text(encoding="utf-8") else "small"
    _, experiments, cells = read([name], scale_name=scale)
    assert experiments[0].name == Path(name).stem
    assert len(cells) == 3 * len(experiments[0].variants)


def test_methods_differ_in_what_they_say() -> None:
    _, (experiment,), _ = read(["ablations.yaml"])
    stages = {name: variant.stages for name, variant in experiment.variants.items()}
    assert [stage.name for stage in stages["prealign"]] == ["align_init", "pretrain"]
    assert [stage.text for stage in stages["no_codeswitch"]] == ["plain", "plain"]
    assert [stage.name for stage in stages["no_align_init"]] == ["pretrain"]
    assert stages["vanilla"][1].config["data"]["label_mode"] == "vanilla"
    assert stages["prealign"][1].config["data"]["label_mode"] == "input-only"
    assert stages["embeddings_only"][0].config["alignment"]["taps"] == "embeddings"
    assert stages["no_lm_loss"][0].config["alignment"]["lm_weight"] == 0
    assert stages["joint"][0].steps is None


def test_experiments_are_found_by_path_or_by_name(tmp_path: Path) -> None:
    assert find_experiment(Path("main_table")) == find_experiment(Path("main_table.yaml")) == FOLDER / "main_table.yaml"
    assert find_experiment(tmp_path / "main_table.yaml") == tmp_path / "main_table.yaml"


def test_keys_given_twice_are_refused(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    path.write_text(path.read_text() + "title: Another\n")
    assert "title is given twice (first on line" in problems_of(path)[0]


def problems_of(path: Path) -> list[str]:
    with pytest.raises(DataError) as error:
        read([path], seeds=1)
    return error.value.problems


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"baseline": "joined"}, "baseline: there is no variant 'joined'; did you mean joint?"),
        ({"variants": {"joint": None, "pre_align": None}}, "there is no variant or method 'pre_align'; did you mean"),
        ({"variants": {"joint": {"extends": "prealing"}}}, "'prealing'; did you mean prealign?"),
        ({"variants": {"joint": {"extends": "x"}, "x": {"extends": "joint"}}}, "joint extends itself: joint → x →"),
        ({"variants": {"joint": {"stages": ["align"]}}}, "there is no stage 'align'; did you mean align_init?"),
        ({"variants": {"joint": {"stages": ["align_init"]}}}, "the last takes what is left"),
        ({"variants": {"joint": {"title": "nothing"}}}, "it has no stages"),
        ({"variants": {"joint": {"extends": "joint", "stges": []}}}, "stges: Unexpected keyword argument"),
        ({"variants": {"joint": {"stages": [{"joint": {"optimizer.rl": 1}}]}}}, "unknown key optimizer.rl"),
        ({"variants": {"joint": {"stages": [{"joint": {"text": "plane"}}]}}}, "has no text plane; it has plain, "),
        ({"variants": {"joint": None, "p": {"extends": "prealign", "data": {"rate": 1}}}}, "data.rate: Unexpected"),
        ({"variants": {"joint": {"stages": [{}]}}}, "a stage is a name, or one name with its overrides: {}"),
        ({"variants": {"joint": {"stages": [{"joint": {}, "align_init": {}}]}}}, "a stage is a name, or one name with"),
        (
            {"variants": {"joint": {"stages": [{"align_init": {"steps": 10**6}}, "joint"]}}},
            "steps: 1000000 must be above",
        ),
        (
            {"variants": {"joint": {"stages": [{"align_init": {"steps": -5}}, "joint"]}}},
            "steps: -5 must be above 0 and",
        ),
        ({"variants": {"joint": {"extends": "joint", "data": {"clone_share": -1}}}}, "data.clone_share: "),
        ({"variants": {"joint": {"extends": "joint", "data": {"codeswitch_ratio": 1.5}}}}, "data.codeswitch_ratio: "),
        ({"variants": {"joint": {"extends": "joint", "data": {"lexicon_coverage": 0}}}}, "data.lexicon_coverage: "),
        ({"evaluations": [{**PERPLEXITY, "texts": {"en": "{valid_xx}"}}], **MEASURED}, "'{valid_xx}': write one of {"),
        ({"evaluations": [{**PERPLEXITY, "texts": {"en": "{valid_en"}}], **MEASURED}, "'{valid_en': write one of {"),
        (
            {"evaluations": [PERPLEXITY]},
            "p_at_1': no task under evaluations is called held_out; there are",
        ),
        (
            {"evaluations": [{"evaluation": "perplexity", "texts": {"en": "{valid_en}"}}] * 2},
            "perplexity is the name of two tasks",
        ),
        ({"measures": ["perplexity.clon.perplexity"]}, "is not in measures.yaml; did you mean perplexity.clone"),
        ({"recipe": "klingon"}, "scale small has nothing for 'klingon'"),
        ({"axis": {"label": "x", "values": {"joynt": 1}}}, "axis.values: there is no variant 'joynt'"),
        ({"evaluations": [{"evaluation": "perplxity"}]}, "unknown evaluation 'perplxity'; did you mean perplexity?"),
        ({"evaluations": [{"evaluation": "perplexity"}]}, "evaluations, task 1: perplexity needs the option texts"),
        (
            {"evaluations": [{"evaluation": "word_retrieval", "lexicon": "x"}]},
            "has no option lexicon; did you mean lex",
        ),
        ({"question": None}, "question: should be a valid string"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    if isinstance(variants := changes.get("variants"), dict) and "extends" in str(variants.get("joint")):
        changes = changes | {"baseline": "joint"}
    problems = problems_of(write_experiment(tmp_path, **changes))
    assert any(reason in problem for problem in problems), problems
    assert all("mine" in problem for problem in problems)


def test_all_mistakes_of_all_files_are_named_at_once(tmp_path: Path) -> None:
    paths = [write_experiment(tmp_path, "one", baseline="x"), write_experiment(tmp_path, "two", measures=["y"])]
    with pytest.raises(DataError) as error:
        read_experiments([*paths, tmp_path / "none.yaml"], read_scale("small"))
    assert len(error.value.problems) == 3
    assert "none.yaml" in error.value.problems[2]


@pytest.mark.parametrize(("text", "reason"), [("a: [", "valid YAML"), ("- a", "must be a mapping"), ("a: 1", "title")])
def test_files_that_are_no_experiments(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert any(reason in problem for problem in problems_of(path))


def test_an_unknown_scale_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"no scale 'medium'; choose from .*small"):
        read_scale("medium")


def test_the_experiment_of_the_documentation_is_whole(tmp_path: Path) -> None:
    page = (FOLDER.parent / "README.md").read_text()
    text = page.split("<!-- new experiment -->\n```yaml\n")[1].split("```")[0]
    (tmp_path / "warmup.yaml").write_text(text)
    _, (experiment,), cells = read([tmp_path / "warmup.yaml"], seeds=2)
    assert experiment.variants["slow"].stages[1].config["schedule"]["lr_warmup_steps"] == 60
    assert experiment.variants["prealign"].stages[1].config["schedule"]["lr_warmup_steps"] == 20
    assert len(cells) == 4
    named = {name for name in EXPERIMENTS if f"`{name}`" in page}
    assert named == set(EXPERIMENTS)
