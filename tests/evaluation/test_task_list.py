"""Lists of tasks: what is read, and that one error names every mistake with its place and the fix."""

from pathlib import Path

from megatron_prealign.evaluation.task_list import (
    Task,
    check_tasks,
    describe_options,
    evaluation_names,
    find_evaluation,
    read_tasks,
    summary,
)


def read(path: Path, text: str) -> tuple[list[Task], list[str]]:
    path.write_text(text, encoding="utf-8")
    problems: list[str] = []
    return read_tasks(str(path), problems), problems


def test_options_are_converted_and_names_default_to_the_evaluation(tmp_path: Path) -> None:
    text = """
- evaluation: perplexity
  texts: {en: a.jsonl, de: [b.jsonl, c]}
  window: none
- {evaluation: word_retrieval, name: held-out, lexicons: l.tsv, max_pairs: "100"}
"""
    tasks, problems = read(tmp_path / "tasks.yaml", text)
    assert problems == []
    assert [(task.name, task.kind) for task in tasks] == [("perplexity", "perplexity"), ("held-out", "word_retrieval")]
    assert tasks[0].options.texts == {"en": ("a.jsonl",), "de": ("b.jsonl", "c")}
    assert (tasks[0].options.json_key, tasks[0].options.window) == ("text", None)
    assert tasks[1].options.lexicons == ("l.tsv",)
    assert tasks[1].options.max_pairs == 100
    assert tasks[1].options_as_json()["lexicons"] == ["l.tsv"]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = """
- evaluation: perplexty
- evaluation: perplexity
  text: {en: a.jsonl}
- evaluation: word_retrieval
  lexicons: [1]
  max_pairs: 0
  seeds: 1
  seed: yes
- lexicons: a.tsv
- perplexity
- {evaluation: perplexity, name: "a b", texts: {}, texts: {}}
"""
    tasks, problems = read(tmp_path / "tasks.yaml", text)
    path = tmp_path / "tasks.yaml"
    known = ", ".join(evaluation_names())
    assert f"{path}:2: unknown evaluation 'perplexty'; did you mean perplexity?; known are {known}" in problems
    for expected in (
        ":4: perplexity has no option text; did you mean texts?",
        ":3: perplexity needs the option texts",
        ":6: lexicons[0] should be a valid string, got 1",
        ":7: max_pairs should be greater than 0, got 0",
        ":8: word_retrieval has no option seeds; did you mean seed?",
        ":9: seed: must not be a boolean, got True",
        f":10: no evaluation is named; write `evaluation: NAME` with one of {known}",
        ":11: expected a list of mappings, each like `- name: value`",
        ":12: name 'a b': use only letters, digits, _, . and -",
        ":12: texts is given twice (first on line 12); keep one of them",
    ):
        assert f"{path}{expected}" in problems, expected
    assert len(problems) == 11
    assert [task.kind for task in tasks] == ["perplexity"]


def test_files_that_are_no_list(tmp_path: Path) -> None:
    for text, expected in (
        ("", "tasks.yaml: no task; write a list of mappings"),
        ("evaluation: perplexity\n", "tasks.yaml:1: expected a list of mappings"),
        ("- [\n", "tasks.yaml:2: not valid YAML"),
    ):
        tasks, problems = read(tmp_path / "tasks.yaml", text)
        assert tasks == []
        assert len(problems) == 1
        assert expected in problems[0]
    problems = []
    assert read_tasks(str(tmp_path / "nowhere.yaml"), problems) == []
    assert problems == [f"{tmp_path}/nowhere.yaml: no such file; check the path"]


def test_shared_names_and_missing_inputs(tmp_path: Path) -> None:
    text = """
- {evaluation: perplexity, texts: {en: gone.jsonl}}
- {evaluation: perplexity, texts: {}}
- {evaluation: perplexity, name: empty, texts: {en: []}}
"""
    tasks, problems = read(tmp_path / "tasks.yaml", text)
    assert problems == []
    path = tmp_path / "tasks.yaml"
    assert check_tasks(tasks) == [
        f"2 tasks have the name perplexity ({path}:2, {path}:3): give each its own `name`",
        f"{path}:2: perplexity: gone.jsonl: no such input file",
        f"{path}:3: perplexity: texts: no language given; give a language and its file",
        f"{path}:4: empty: texts: no file given for en; give one, or leave the language out",
    ]


def test_every_evaluation_says_what_it_and_its_options_mean() -> None:
    assert {"perplexity", "word_retrieval"} <= set(evaluation_names())
    for name in evaluation_names():
        assert summary(name).endswith((".", "?")), name
        options = list(describe_options(name))
        assert all(meaning for _, _, meaning in options), name
        assert find_evaluation(name).options.__dataclass_params__.frozen, name
    meaning = "Most word pairs per language pair; if there are more, they are drawn at random."
    assert ("max_pairs", "2000", meaning) in list(describe_options("word_retrieval"))
