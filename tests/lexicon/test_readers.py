from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, Translation, read_lexicon
from megatron_prealign.lexicon import readers as readers_module
from megatron_prealign.lexicon.reading import Languages


def read(tmp_path: Path, name: str, content: str | bytes, target: str | None = None, **options: str) -> Lexicon:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_lexicon([path], "en", target, **options)  # type: ignore[arg-type]


def rows(lexicon: Lexicon) -> list[tuple[str, str, str, float]]:
    return [(word, t.word, t.language, t.weight) for word, t in lexicon.pairs()]


BANK = [("bank", "Bank", "de", 1.0)]


@pytest.mark.parametrize(
    ("name", "content", "target", "expected"),
    [
        ("a.tsv", "bank\tBank\tde\t1.0\n", None, BANK),
        ("a.tsv", "bank\tBank\tDE\n", None, BANK),
        ("a.tsv", "bank\tBank", "de", BANK),
        ("a.tsv", "source\ttranslation\tlanguage\tweight\nbank\tBank\tde\t0.5\n", None, [("bank", "Bank", "de", 0.5)]),
        ("a.tsv", "source\ttranslation\nbank\tBank\n", "de", BANK),
        ("a.tsv", "translation\tsource\tweight\nBank\tbank\t2e0\n", "de", [("bank", "Bank", "de", 2.0)]),
        ("a.tsv", "bank\tBank\tde\t\n", None, BANK),
        ("a.tsv", "\nbank\tBank\t\n\n", "de", BANK),
        ("a.dict", "bank\tBank\tde\n", None, BANK),
        ("a.txt", "bank Bank\n", "de", BANK),
        ("a.txt", "bank  Bank \r\n", "de", BANK),
        ("a.txt", "bank\tBank\n", "de", BANK),
        ("a.txt", "ice cream\tSpeiseeis\n", "de", [("ice cream", "Speiseeis", "de", 1.0)]),
        ("a.jsonl", '{"src_text": "bank", "tgt_text": "Bank"}\n', "de", BANK),
        ("a.jsonl", '{"words": "bank $ Bank", "index": 1}\n', "de", BANK),
        ("a.data", '{"words": "bank $ Bank", "index": 1}\n', "de", BANK),
        (
            "a.jsonl",
            '{"words": "bank $ 银行 $ banque", "index": 1}',
            "zh, fr",
            [("bank", "银行", "zh", 1.0), ("bank", "banque", "fr", 1.0)],
        ),
        (
            "a.jsonl",
            '{"words": "bank $ Bank $ Ufer", "index": 1}',
            "de",
            [("bank", "Bank", "de", 1.0), ("bank", "Ufer", "de", 1.0)],
        ),
        ("a.tsv", b"\xef\xbb\xbfbank\tBank\tde\r\n", None, BANK),
        ("a.tsv", "bank\tMu\u0308nze\tde\n", None, [("bank", "M\u00fcnze", "de", 1.0)]),
        ("a.tsv", "bank\tBank\tzh_Hans\n", None, [("bank", "Bank", "zh-hans", 1.0)]),
        ("a.tsv", "salam\tسلام\u200cها\tfa\n", None, [("salam", "سلام\u200cها", "fa", 1.0)]),
    ],
)
def test_formats(
    tmp_path: Path, name: str, content: str | bytes, target: str | None, expected: list[tuple[str, str, str, float]]
) -> None:
    assert rows(read(tmp_path, name, content, target)) == expected


def test_format_can_be_named(tmp_path: Path) -> None:
    assert rows(read(tmp_path, "a.tsv", "bank Bank\n", "de", file_format="muse")) == BANK
    assert rows(read(tmp_path, "a.txt", '{"words": "bank $ Bank"}', "de", file_format="jsonl")) == BANK


def test_files_are_merged_in_order(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("bank Bank\nhouse Haus\nbank Ufer\nbank Bank\n")
    (tmp_path / "all.tsv").write_text("house\tmaison\tfr\nbank\tBank\tde\t4\n")
    lexicon = read_lexicon([tmp_path / "de.txt", str(tmp_path / "all.tsv")], "EN", "de")
    assert lexicon.source_language == "en"
    assert rows(lexicon) == [
        ("bank", "Bank", "de", 4.0),
        ("bank", "Ufer", "de", 1.0),
        ("house", "Haus", "de", 1.0),
        ("house", "maison", "fr", 1.0),
    ]


@pytest.mark.parametrize(
    ("name", "line", "target", "reason"),
    [
        ("a.tsv", b"bank", "de", "1 columns"),
        ("a.tsv", b"bank Bank", "de", "1 columns"),
        ("a.tsv", b"a\tb\tde\t1\textra", None, "5 columns"),
        ("a.tsv", b"\tBank\tde", None, "source word is empty"),
        ("a.tsv", b"bank\t \tde", None, "translation is empty"),
        ("a.tsv", b"bank\tBank", None, "the line names no language"),
        ("a.tsv", b"bank\tBank", "de,fr", "exactly one target language"),
        ("a.tsv", b"bank\tBank\tde ch", None, "not a language tag"),
        ("a.tsv", b"bank\tBank\tnoun", None, "'noun' is not a language tag"),
        ("a.tsv", b"bank\tBank\tgerman", "de", "'german' is not a language tag"),
        ("a.tsv", b"bank\tBank\tde\theavy", None, "'heavy' is not a number"),
        ("a.tsv", b"bank\tBank\tde\t0", None, "weight is 0.0"),
        ("a.tsv", b"bank\tBank\tde\t-1", None, "weight is -1.0"),
        ("a.tsv", b"bank\tBank\tde\tnan", None, "weight is nan"),
        ("a.tsv", b"bank\tBank\tde\tinf", None, "weight is inf"),
        ("a.tsv", b"bank\tB\xe4nke\tde", None, "not UTF-8 at byte 6"),
        ("a.tsv", b"bank\tBa\x00nk\tde", None, r"U\+0000"),
        ("a.tsv", "bank\tBa\u2028nk\tde".encode(), None, r"U\+2028"),
        ("a.tsv", "bank\tB\ufffdnk\tde".encode(), None, r"U\+FFFD"),
        ("a.txt", b"bank", "de", "1 columns"),
        ("a.txt", b"bank of England", "de", "3 columns"),
        ("a.jsonl", b'{"words": "bank $ Bank"', "de", "not JSON"),
        ("a.jsonl", b"[1]", "de", "not list"),
        ("a.jsonl", b'{"words": "bank"}', "de", "separated by"),
        ("a.jsonl", b'{"words": "bank $ "}', "de", "translation is empty"),
        ("a.jsonl", b'{"words": "bank $ Bank $ Ufer $ x"}', "de,fr", "3 translations for 2 target languages"),
        ("a.jsonl", b'{"word": "bank"}', "de", 'neither a text "words"'),
        ("a.jsonl", b'{"src_text": "bank", "tgt_text": 3}', "de", 'neither a text "words"'),
        ("a.jsonl", b'{"src_text": "bank", "tgt_text": "B\\u0009k"}', "de", r"U\+0009"),
        ("a.jsonl", b'{"src_text": "bank", "tgt_text": "\\ud800"}', "de", r"U\+D800"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, name: str, line: bytes, target: str | None, reason: str) -> None:
    good = {"a.tsv": b"one\teins\tde\n", "a.txt": b"one eins\n", "a.jsonl": b'{"src_text": "one", "tgt_text": "1"}\n'}
    if target == "de,fr":
        good = dict.fromkeys(good, b'{"words": "one $ eins $ un"}\n') | {"a.tsv": b"one\teins\tde\n"}
    with pytest.raises(DataError, match=rf"{name}:3: .*{reason}") as error:
        read(tmp_path, name, good[name] + b"\n" + line + b"\n" + good[name], target)
    assert len(error.value.problems) == 1


def test_all_problems_are_told_and_many_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("bank\n" * 30)
    (tmp_path / "b.tsv").write_text("x\ty\tde\t-1\n")
    with pytest.raises(DataError) as error:
        read_lexicon([tmp_path / "b.tsv", tmp_path / "a.tsv", tmp_path / "none.tsv"], "en")
    problems = error.value.problems
    assert len(problems) == 21
    assert "b.tsv:1: the weight" in problems[0]
    assert "a.tsv:1:" in problems[1]
    assert problems[-1] == "and 12 more (32 problems in total)"


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", "bank Bank\n"), ("a.tsv", "source\ttranslation\nbank\tBank\n")]
)
def test_missing_target_language_is_one_problem_a_file(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(DataError, match="give the target language") as error:
        read(tmp_path, name, content * 5)
    assert len(error.value.problems) == 1


def test_unknown_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.tsv:1: unknown columns \['score'\]"):
        read(tmp_path, "a.tsv", "source\ttranslation\tscore\nbank\tBank\t2\n", "de")


FIELDS = st.sampled_from(
    ["bank", "Ufer", " Bank", "ice cream", "", "é", "e\u0301", "\u00a0", "\ufffd", "de", "1.0", "0"]
)
ROWS = st.lists(st.lists(FIELDS, min_size=1, max_size=5), min_size=1, max_size=4)
HEADERS = st.sampled_from(["", "source\ttranslation\n", "translation\tsource\tlanguage\n", "source\tlanguage\n"])


@given(
    header=HEADERS,
    rows=ROWS,
    end=st.sampled_from(["\n", "\r\n", "", "\n\n"]),
    target=st.sampled_from([None, "de", "de,fr"]),
)
@example(header="", rows=[["bank", "Ufer", "de", "1.0"], ["é", "Bank", "de", "0.5"]], end="\n", target=None)
def test_columns_at_once_give_what_rows_give(
    tmp_path_factory: pytest.TempPathFactory, header: str, rows: list[list[str]], end: str, target: str | None
) -> None:
    path = tmp_path_factory.mktemp("table") / "a.tsv"
    path.write_bytes((header + end.join("\t".join(row) for row in rows) + end).encode())

    def outcome() -> list[tuple[str, Translation]] | str:
        try:
            return list(read_lexicon([path], "en", target).pairs())
        except DataError as error:
            return str(error)

    at_once = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers_module, "_read_clean_table", lambda data, languages: None)
        assert outcome() == at_once


def test_a_clean_table_is_read_at_once(tmp_path: Path) -> None:
    data = "source\ttranslation\nbank\tUfer\nisère\tIsère\n".encode()
    pairs = readers_module._read_clean_table(data, Languages("en", ("de",)))
    assert pairs == [("bank", Translation("Ufer", "de")), ("isère", Translation("Isère", "de"))]


@pytest.mark.parametrize("content", ["", "\n \n", "source\ttranslation\n"])
def test_empty_lexicon(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"has no word pair .*a\.tsv"):
        read(tmp_path, "a.tsv", content, "de")


def test_no_file_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file given"):
        read_lexicon([], "en", "de")
    with pytest.raises(DataError, match=r"none\.tsv: can't be read"):
        read_lexicon([tmp_path / "none.tsv"], "en", "de")
    with pytest.raises(DataError, match="can't be read"):
        read_lexicon([tmp_path], "en", "de")


@pytest.mark.parametrize(("source", "target"), [("en,de", "fr"), ("", "fr"), ("english!", "fr"), ("en", "f r")])
def test_languages_are_checked(tmp_path: Path, source: str, target: str) -> None:
    (tmp_path / "a.txt").write_text("bank Bank\n")
    with pytest.raises(DataError, match="language"):
        read_lexicon([tmp_path / "a.txt"], source, target)
