"""The lexicon tool: filters with counts, a held-out part, refusals before anything is written."""

import json
from pathlib import Path

import pytest

from megatron_prealign.lexicon import read_lexicon
from tools.build_lexicon import main

DIRTY = "house haus\nhouse heim\nParis Paris\n42 zweiundvierzig\nx iks\nwater wasser\nsun солнце\ndog hund\n"


@pytest.fixture
def muse(tmp_path: Path) -> Path:
    path = tmp_path / "en-de.txt"
    path.write_text(DIRTY, encoding="utf-8")
    return path


def _run(muse: Path, *options: str) -> int:
    output = str(muse.parent / "clean.tsv")
    return main(["dictionaries", "--input", str(muse), "--target-language", "de", "--output", output, *options])


def test_filters_and_counts(muse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(muse) == 0
    lexicon = read_lexicon([muse.parent / "clean.tsv"], "en")
    pairs = [(word, translation.word, translation.language) for word, translation in lexicon.pairs()]
    assert pairs == [("house", "haus", "de"), ("house", "heim", "de"), ("water", "wasser", "de"), ("dog", "hund", "de")]
    report = capsys.readouterr().err
    for name in ("identity", "script", "non-letters", "one-letter"):
        (line,) = [line for line in report.splitlines() if f"dropped by {name}" in line]
        assert "1" in line


def test_a_filter_that_drops_most_of_a_dictionary_is_an_alarm(muse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    muse.write_text("house\tghar\nwater\tpani\nbook\tkitaab\ndog\tकुत्ता\nHaus\tHaus\n", encoding="utf-8")
    report = muse.parent / "report.json"
    options = ["--target-language", "hi", "--no-check-languages", "--report", str(report)]
    assert _run(muse, *options) == 0
    alarm = (
        "the filter script dropped 3 of 5 word pairs into hi (house → ghar, water → pani); look at the language tags"
    )
    assert f"warning: {alarm}" in capsys.readouterr().err
    (told,) = json.loads(report.read_text(encoding="utf-8"))["warnings"]
    assert told.startswith(alarm)
    assert _run(muse, *options, "--no-script", "--overwrite") == 0
    assert "warning" not in capsys.readouterr().err
    before = (muse.parent / "clean.tsv").read_bytes()
    assert _run(muse, *options, "--on-alarm", "fail", "--overwrite") == 2
    assert capsys.readouterr().err.startswith(f"error: {alarm}")
    assert (muse.parent / "clean.tsv").read_bytes() == before
    assert _run(muse, *options, "--no-script", "--on-alarm", "fail", "--overwrite") == 0


def test_filters_can_be_switched_off(muse: Path) -> None:
    assert _run(muse, "--no-identity", "--no-script", "--no-non-letters", "--no-one-letter") == 0
    assert len(read_lexicon([muse.parent / "clean.tsv"], "en")) == 7


def test_held_out_words_are_in_no_other_file(muse: Path) -> None:
    assert _run(muse, "--held-out-ratio", "0.5", "--output-held-out", str(muse.parent / "held.tsv"), "--seed", "2") == 0
    kept, held = (read_lexicon([muse.parent / name], "en") for name in ("clean.tsv", "held.tsv"))
    words = [{entry.word for entry in lexicon.entries} for lexicon in (kept, held)]
    assert words[0] | words[1] == {"house", "water", "dog"}
    assert not words[0] & words[1]


def test_no_entry_of_several_words_shows_a_held_out_one(muse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"word{chr(97 + i)}" for i in range(20)]
    lines = [f"{word}\twort{word[-1]}\tde\n" for word in words]
    lines += [f"{word} {other}\tpaar\tde\n" for word in words for other in words if word != other]
    dictionary = muse.parent / "phrases.tsv"
    dictionary.write_text("".join(lines), encoding="utf-8")
    held_path, kept_path = muse.parent / "held.tsv", muse.parent / "kept.tsv"
    options = ["--held-out-ratio", "0.3", "--output-held-out", str(held_path), "--no-check-languages"]
    assert main(["dictionaries", "--input", str(dictionary), *options, "--output", str(kept_path)]) == 0
    held = {entry.word for entry in read_lexicon([held_path], "en").entries}
    kept = {entry.word for entry in read_lexicon([kept_path], "en").entries}
    assert held & set(words) and kept - set(words)
    assert not any(set(entry.split()) & held for entry in kept)
    assert "dropped by held-out-words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--input", "german=x.tsv"), "--input german=x.tsv: german: not a language tag"),
        (("--held-out-ratio", "0.5"), "belong together"),
        (("--held-out-ratio", "1.5", "--output-held-out", "x.tsv"), "in [0, 1)"),
        (("--max-translations", "0"), "at least 1"),
        (("--max-length", "0"), "at least 1"),
        (("--min-languages", "0"), "at least 1"),
        (("--min-languages", "2"), "no word is left"),
        (("--corpus", "absent.txt"), "absent.txt: no such input file"),
        (("--report", "clean.tsv", "--output", "clean.tsv"), "different names"),
    ],
)
def test_refusals(muse: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(muse, *options) == 2
    assert message in capsys.readouterr().err
    assert not (muse.parent / "clean.tsv").exists()


def test_nothing_is_overwritten_unasked(muse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(muse) == 0
    assert _run(muse) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert _run(muse, "--overwrite") == 0


def test_dictionaries_of_several_formats_and_languages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "de.csv").write_text("Bank,Ufer\nBank,Kreditinstitut\nHouse,Haus\n", encoding="utf-8")
    (tmp_path / "cedict.u8").write_text("岸 岸 [an4] /bank/shore/\n銀行 银行 [yin2 hang2] /bank/\n", encoding="utf-8")
    (tmp_path / "fr-en.txt").write_text("banque bank\nmaison house\n", encoding="utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "The house, the BANK; a bank\'s cat."}\n', encoding="utf-8")
    arguments = ["dictionaries", "--input", f"de={tmp_path / 'de.csv'}", f"zh={tmp_path / 'cedict.u8'}"]
    arguments += ["--reverse-input", f"fr={tmp_path / 'fr-en.txt'}", "--corpus", str(tmp_path / "c.jsonl")]
    arguments += ["--report", str(tmp_path / "r.json"), "--output", str(tmp_path / "all.tsv")]
    assert main([*arguments, "--max-translations", "1", "--min-languages", "3"]) == 0
    lexicon = read_lexicon([tmp_path / "all.tsv"], "en")
    # Ranked by frequency: 银行 before 岸; and Bank is bank in a dictionary that capitalises every headword.
    assert [(w, t.word, t.language) for w, t in lexicon.pairs()] == [
        ("bank", "Ufer", "de"),
        ("bank", "banque", "fr"),
        ("bank", "银行", "zh"),
    ]
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["read"] == {"words": 3, "pairs": 8, "pairs_by_language": {"de": 3, "fr": 2, "zh": 3}}
    assert report["dropped"]["min_languages"]["examples"] == ["house → Haus", "house → maison", "shore → 岸"]
    assert report["dropped"]["max_translations"]["pairs"] == 2
    assert [file["headwords_lowered"] for file in report["files"]] == [True, False, False]
    coverage = report["coverage"]
    assert (coverage["words"], coverage["covered_words"], coverage["by_language"]["zh"]) == (8, 2, 2)
    assert coverage["missed"][:2] == [["the", 2], ["house", 1]]
    assert "corpus covered" in capsys.readouterr().err


def test_bad_lines_are_refused_or_left_out_with_their_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tsv").write_text("house\tHaus\nbroken\nwater\tWasser\n", encoding="utf-8")
    arguments = ["dictionaries", "--input", f"de={tmp_path / 'a.tsv'}", "--output", str(tmp_path / "out.tsv")]
    assert main(arguments) == 2
    assert "a.tsv:2: 1 columns" in capsys.readouterr().err
    assert not (tmp_path / "out.tsv").exists()
    assert main([*arguments, "--on-error", "skip"]) == 0
    assert "warning: left out" in capsys.readouterr().err
    assert len(read_lexicon([tmp_path / "out.tsv"], "en")) == 2


SWEDISH = """
and och, work arbete, child barn, letter brev, bridge bro, brother bror, day dag, animal djur, daughter dotter,
kitchen kök, church kyrka, love kärlek, king kung, knowledge kunskap, country land, library bibliotek, teacher lärare,
medicine läkemedel, food mat, people människor, moon måne, morning morgon, mother mor, night natt, nature natur,
new ny, question fråga, breakfast frukost, woman kvinna, bird fågel, father far, danger fara, summer sommar,
feeling känsla, memory minne, garden trädgård, tree träd, dream dröm, death död, ear öra, island ö, apple äpple,
year år, age ålder, river flod, street gata, gift gåva, grass gräs, border gräns, green grön, gold guld, yellow gul,
dog hund, heaven himmel, heart hjärta, health hälsa, autumn höst, evening kväll, cold kyla, power kraft, war krig,
body kropp, life liv, light ljus, noise ljud, happiness lycka, length längd, meeting möte, darkness mörker,
neighbour granne, world värld, news nyheter, key nyckel, weather väder, village by, horse häst, money pengar,
place plats, potato potatis, railway järnväg, travel resa, room rum, right rättighet, voice röst, society samhälle,
language språk, silver silver, ship fartyg, school skola, forest skog, shoe sko, debt skuld, shadow skugga,
sleep sömn, sister syster, star stjärna, chair stol, city stad, power makt, sea hav, stone sten, storm storm,
mirror spegel, game spel, thing sak, holiday semester, story berättelse, breath andedräkt, foreigner utlänning,
hospital sjukhus, security säkerhet, kindness vänlighet, equality jämlikhet, agriculture jordbruk, building byggnad,
science vetenskap, government regering, exhibition utställning, development utveckling, loneliness ensamhet
"""


def test_a_swedish_file_is_no_swahili(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sw.txt"
    path.write_text("\n".join(pair.strip() for pair in SWEDISH.split(",")), encoding="utf-8")
    output = ["--output", str(tmp_path / "out.tsv")]
    assert main(["dictionaries", "--input", f"sw={path}", *output]) == 2
    error = capsys.readouterr().err
    assert "sw.txt: its sw translations are not in sw: of " in error
    assert " sv; for example " in error
    assert not (tmp_path / "out.tsv").exists()
    assert main(["dictionaries", "--input", f"sv={path}", *output]) == 0
    assert main(["dictionaries", "--input", f"sw={path}", *output, "--no-check-languages", "--overwrite"]) == 0
    assert main(["dictionaries", "--reverse-input", f"sv={path}", *output, "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert "its source words are not in en" in error and "its sv translations are not in sv" in error


def test_what_can_be_known_before_reading_is_told_at_once(
    muse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.build_lexicon.build_lexicon", None)  # the long work
    assert _run(muse, "--max-length", "-1", "--max-translations", "0", "--min-languages", "0") == 2
    error = capsys.readouterr().err
    assert all(
        f"--{option} must be at least 1" in error for option in ("max-length", "max-translations", "min-languages")
    )
    assert _run(muse, "--corpus", str(tmp_path / "absent.jsonl")) == 2
    assert "absent.jsonl: no such input file" in capsys.readouterr().err
    arguments = ["dictionaries", "--input", f"de={muse}", "--output", str(muse), "--overwrite"]
    assert main(arguments) == 2
    assert "would delete" in capsys.readouterr().err


def test_a_dictionary_may_be_packed(muse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from backports import zstd

    packed = muse.with_name("packed.txt.zst")
    packed.write_bytes(zstd.compress(muse.read_bytes()))
    assert _run(packed) == 0
    assert len(read_lexicon([muse.parent / "clean.tsv"], "en")) == 3
    packed.write_bytes(packed.read_bytes()[:-5])
    assert _run(packed, "--overwrite") == 2
    assert "packed.txt.zst: can't be read" in capsys.readouterr().err
