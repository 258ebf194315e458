"""The demo's corpus: Bible rows to chapters, docstrings to prose, documents to disjoint splits."""

import itertools
import json
from pathlib import Path

import pytest

from examples.paper.english_clone import corpus

VERSE_ROWS = [
    "id\tsource_verse\ttext\tskip_space_after\texclude",
    "01\t01001001\tThen\t\t",
    "02\t01001001\tHe\t\t",
    "03\t01001001\tsaid\ty\t",
    "04\t01001001\t,\t\ty",
    "05\t01001001\t\u201c\ty\ty",
    "06\t01001001\tCome\ty\t",
    "07\t01001001\t\u2014\ty\ty",
    "08\t01001001\tnow\ty\t",
    "09\t01001001\t.\ty\ty",
    "10\t01001001\t\u201d\t\ty",
    "11\t01001002\tThey\t\t",
    "12\t01001002\tcame\ty\t",
    "13\t01001002\t.\t\ty",
    "14\t01002001\tNext\ty\t",
    "15\t01002001\t.\t\ty",
]


def test_tokens_are_joined_into_chapters_of_verses_in_ascii() -> None:
    chapters = list(corpus.join_chapters(VERSE_ROWS))
    assert [chapter.text for chapter in chapters] == ['Then He said, "Come - now."\nThey came.', "Next."]
    books = ("05", "06", "17", "22", "39", "44", "66")
    rows = [VERSE_ROWS[0], *(f"{book}\t{book}001001\tEnd\t\t" for book in books)]
    sections = ["law", "history", "history", "poetry", "prophets", "gospels_and_acts", "letters"]
    assert list(corpus.join_chapters(rows)) == [corpus.Document("bible", section, "End") for section in sections]


DOCSTRING = """Return the number of words that a text of this kind has.

The :class:`~module.Thing` keeps what was ``read``, and gives it
back to whoever asks for it first::

    code = that(is_left_out)

>>> doctest(1)
This line follows a doctest and is a part of its paragraph.

Args:
    text: The parameter list is indented, so it is left out as a whole.

A heading of some length that nobody would read as prose
--------------------------------------------------------

Too short to keep.

It has no full stop although it is long enough to be one sentence

Use foo_bar(a_b, c_d) or x.y.z = self.w and many_more_names, not prose.

It costs 5 \u20ac, and text that is not plain ASCII is left out.
"""


def test_only_prose_is_kept_of_a_docstring() -> None:
    assert corpus.prose_paragraphs(DOCSTRING) == [
        "Return the number of words that a text of this kind has.",
        "The module.Thing keeps what was read, and gives it back to whoever asks for it first.",
    ]


def write_modules(folder: Path) -> Path:
    """Write a package with repeated, indented, untidy and unparsable docstrings."""
    sentences = [f"This is the sentence with the number {index} of a long docstring." for index in range(8)]
    (folder / "b").mkdir(parents=True)
    (folder / "tests").mkdir()
    text = "\n\n".join(sentences)
    (folder / "a.py").write_text(f'"""{text}"""\nimport does_not_exist\n')
    (folder / "b/c.py").write_text(f'"""{text}\n\nThis one more sentence is all that is new in the module."""\n')
    (folder / "b/d.py").write_text(f'def f():\n    """{text.replace("This", "Here")}"""\n')
    (folder / "b/e.py").write_text("def broken(:\n")
    (folder / "tests/f.py").write_text(f'"""{text.replace("This", "There")}"""\n')
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_docstrings_are_parsed_never_imported_and_paragraphs_kept_once(tmp_path: Path, workers: int) -> None:
    found = list(corpus.read_docstrings({"lib": write_modules(tmp_path / "package")}, workers))
    assert [document[:2] for document in found] == [("docstrings", "lib")] * 2
    documents = [document.text for document in found]
    assert len(documents) == 2  # a repeats nothing, c only repeats, d differs, e does not parse, f is a test
    assert documents[0].startswith("This is the sentence with the number 0")
    assert documents[1].startswith("Here is the sentence")
    lines = [line for document in documents for line in document.split("\n")]
    assert len(lines) == len(set(lines)) == 16


def documents(number: int) -> list[corpus.Document]:
    """Return distinct short documents."""
    return [corpus.Document("bible", "law", f"Document {index}.") for index in range(number)]


def read(folder: Path) -> dict[str, list[str]]:
    """Return the texts of each split."""
    lines = {split: (folder / f"{split}.jsonl").read_text().splitlines() for split in corpus.SPLITS}
    return {split: [json.loads(line)["text"] for line in found] for split, found in lines.items()}


def test_splits_are_disjoint_complete_and_of_the_size_asked_for(tmp_path: Path) -> None:
    corpus.write_splits(iter(documents(4000)), tmp_path, clone_ratio=0.1, valid_ratio=0.05)
    splits = read(tmp_path)
    assert sorted(itertools.chain(*splits.values())) == sorted(document.text for document in documents(4000))
    assert len(splits["clone_source"]) == pytest.approx(400, abs=60)
    assert len(splits["valid"]) == pytest.approx(200, abs=45)


def test_the_split_of_a_document_depends_on_nothing_else(tmp_path: Path) -> None:
    corpus.write_splits(iter(documents(200)), tmp_path / "all", clone_ratio=0.3, valid_ratio=0.3)
    corpus.write_splits(iter(documents(200)[::-2]), tmp_path / "half", clone_ratio=0.3, valid_ratio=0.3)
    every, half = read(tmp_path / "all"), read(tmp_path / "half")
    for split in corpus.SPLITS:
        assert half[split]
        assert set(half[split]) <= set(every[split])


def test_sources_are_mixed_and_the_order_does_not_follow_the_input(tmp_path: Path) -> None:
    mixed = documents(300) + [corpus.Document("docstrings", "numpy", f"Module {index}.") for index in range(300)]
    for name, order in (("forward", mixed), ("backward", mixed[::-1])):
        corpus.write_splits(iter(order), tmp_path / name, clone_ratio=0.1, valid_ratio=0.1)
    assert read(tmp_path / "forward") == read(tmp_path / "backward")
    last = read(tmp_path / "forward")["english"][-40:]
    assert 8 < sum(text.startswith("Module") for text in last) < 32


def test_every_bad_argument_is_named_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "valid.jsonl").write_text("kept")
    assert corpus.main(["--output", str(tmp_path), "--clone-ratio", "0.97", "--bible-wheel", "none.whl"]) == 2
    message = capsys.readouterr().err
    assert "--clone-ratio and --valid-ratio" in message
    assert "valid.jsonl: already there" in message
    assert (tmp_path / "valid.jsonl").read_text() == "kept"


@pytest.mark.parametrize(("content", "reason"), [(None, "no such file"), (b"other", "SHA-256")])
def test_a_missing_or_other_wheel_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str
) -> None:
    wheel = tmp_path / "bible_alignments.whl"
    if content is not None:
        wheel.write_bytes(content)
    assert corpus.main(["--output", str(tmp_path / "out"), "--bible-wheel", str(wheel)]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
