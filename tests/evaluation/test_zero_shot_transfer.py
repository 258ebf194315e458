"""Zero-shot transfer: what is learnt, what random labels give, how examples are encoded, refusals."""

import json
import random
from pathlib import Path

import pytest

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.fine_tuning import collate, encode_examples
from megatron_prealign.evaluation.folder import ModelFolder, open_folder
from megatron_prealign.evaluation.kinds import zero_shot_transfer
from megatron_prealign.evaluation.labelled import HUB_TASKS, Example, fetch_task, to_examples
from tests.evaluation.folders import make_folder

WORDS = {"code": "class method object module function", "numbers": "integer float sum value digit"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_folder(make_folder(tmp_path_factory.mktemp("hf") / "tiny", initializer_range=0.1))


def write(path: Path, records: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def passages(seed: int, number: int, labels_are_random: bool = False) -> list[dict[str, object]]:
    """Return texts of five words, told apart by nothing but the words."""
    draw = random.Random(seed)
    records = []
    for index in range(number):
        label = sorted(WORDS)[index % 2]
        text = " ".join(draw.choices(WORDS[label].split(), k=4)) + f" {index + 1000 * seed}"
        records.append({"text": text, "label": draw.choice(sorted(WORDS)) if labels_are_random else label})
    return records


def options(tmp_path: Path, train: list[dict[str, object]], **settings: object) -> zero_shot_transfer.Options:
    test = {"en": (write(tmp_path / "en.jsonl", passages(2, 100)),)}
    test["xx"] = (write(tmp_path / "xx.jsonl", [one | {"text": str(one["text"]).upper()} for one in passages(3, 60)]),)
    given = {"seeds": (1, 2), "epochs": 2, "batch_size": 16, "learning_rate": 3e-3} | settings
    return zero_shot_transfer.Options(train=(write(tmp_path / "train.jsonl", train),), test=test, **given)  # type: ignore[arg-type]


def test_words_are_learnt_and_random_labels_give_chance(folder: ModelFolder, tmp_path: Path) -> None:
    before = {name: weight.clone() for name, weight in folder.model.named_parameters()}
    given = options(tmp_path, passages(1, 200))
    assert zero_shot_transfer.check(given) == []
    parts: list[str] = []
    results = zero_shot_transfer.run(folder, given, lambda done, total, part="": parts.append(f"{part} {done}/{total}"))
    assert (parts[0], parts[-1]) == ("seed 1 1/26", "seed 2 26/26")
    assert (results["labels"], results["num_train"]) == (["code", "numbers"], 200)
    english, other = results["languages"]["en"], results["languages"]["xx"]
    assert english["accuracy"] > 0.9
    assert english["accuracy"] == pytest.approx(sum(english["by_seed"]) / 2)
    assert english["deviation"] == pytest.approx(abs(english["by_seed"][0] - english["by_seed"][1]) / 2**0.5)
    assert english["low"] <= english["accuracy"] <= english["high"]
    assert (english["chance"], english["num_examples"], other["num_examples"]) == (0.5, 100, 60)
    # Other letters have other tokens, of which nothing was learnt.
    assert other["low"] < 0.65
    assert all(weight.equal(before[name]) for name, weight in folder.model.named_parameters())
    (table,) = zero_shot_transfer.tables("zero_shot_transfer", json.loads(json.dumps(results)))
    assert table.title == "Zero shot transfer, trained in en"

    given = options(tmp_path, passages(1, 200, labels_are_random=True))
    shuffled = zero_shot_transfer.run(folder, given, lambda done, total, part="": None)["languages"]["en"]
    assert shuffled["low"] < 0.5 < shuffled["high"]
    # The same seed gives the same answers.
    given = options(tmp_path, passages(1, 200, labels_are_random=True), seeds=(1,))
    again = zero_shot_transfer.run(folder, given, lambda done, total, part="": None)["languages"]["en"]
    assert again["by_seed"] == shuffled["by_seed"][:1]


def test_examples_are_cut_padded_and_parted(folder: ModelFolder) -> None:
    tokenizer = folder.tokenizer
    first, second = tokenizer.encode("first of the two texts"), tokenizer.encode("second")
    single, short, long = (
        Example("first of the two texts", None, "a", ""),
        Example("first of the two texts", "second", "a", ""),
        Example("first of the two texts", "second " * 30, "a", ""),
    )
    room = len(first) + len(second)
    assert encode_examples(tokenizer, [single, short], room + 2) == [[0, *first], [0, *first, 0, *second]]
    assert encode_examples(tokenizer, [single], 3) == [[0, *first[:2]]]
    # Too long: the first text keeps at least half, the second gets the rest.
    (cut,) = encode_examples(tokenizer, [long], 10)
    assert cut == [0, *first[:4], 0, *tokenizer.encode("second " * 30)[:4]]
    (shorter,) = encode_examples(tokenizer, [short], room + 1)
    assert shorter == [0, *first[:-1], 0, *second]
    batch = collate([{"input_ids": [0, 5, 6], "labels": 1}, {"input_ids": [0, 7], "labels": 0}], padding=0)
    assert {name: part.tolist() for name, part in batch.items()} == {
        "input_ids": [[0, 5, 6], [0, 7, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [1, 0],
    }


def test_everything_wrong_with_a_task_is_told_at_once(tmp_path: Path) -> None:
    given = options(tmp_path, passages(1, 4))
    good = passages(5, 2)
    broken = write(tmp_path / "broken.jsonl", [{"text": "no label"}, {"text": " ", "label": "code"}, *good])
    (tmp_path / "empty.jsonl").write_text("")
    test = {"en": given.test["en"], "de": (broken,), "fr": (str(tmp_path / "empty.jsonl"),)}
    told = zero_shot_transfer.check(zero_shot_transfer.Options(train=given.train, test=test))
    for problem in (
        "broken.jsonl:1: no label under the key 'label'",
        "broken.jsonl:2: its text is empty",
        "empty.jsonl: contains no document",
    ):
        assert any(problem in line for line in told), problem

    one = write(tmp_path / "one.jsonl", [good[0], {"text": "new", "label": "verse"}, {"text": "x  y", "label": "code"}])
    same = write(tmp_path / "same.jsonl", [{"text": "x y", "label": "code"}])
    told = zero_shot_transfer.check(zero_shot_transfer.Options(train=(same,), test={"de": (one,)}))
    for problem in (
        "no test in en, the language of training",
        "the training data has 1 labels (code)",
        "test in de: labels verse do not occur in training",
        "one.jsonl:3: the same text as",
    ):
        assert any(problem in line for line in told), problem
    assert "give either train and test, or task" in zero_shot_transfer.check(zero_shot_transfer.Options())[0]
    told = zero_shot_transfer.check(zero_shot_transfer.Options(train=(same,), seeds=(1, 1)))
    seeds = "seeds is [1, 1]; give at least one seed, and no seed twice"
    assert told == [seeds, "train and test belong together: give both"]


def test_tasks_of_the_hub_are_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="known are xnli, paws-x"):
        fetch_task("mnli", "en", ())
    with pytest.raises(DataError, match="not available in ja; choose from ar, bg"):
        fetch_task("xnli", "en", ("ja",))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="task paws-x: "):
        fetch_task("paws-x", "en", ("de",))
    rows = [{"sentence1": "One.", "sentence2": "Two.", "label": 1}]
    assert to_examples(HUB_TASKS["paws-x"], rows, "paws-x en test") == [
        Example("One.", "Two.", "1", "paws-x en test 0")
    ]
