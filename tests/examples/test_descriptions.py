"""Texts of Debian's packages: read as apt stores them, dealt by source package, masked for the task."""

import json
from pathlib import Path

import pytest

from examples.real_languages.descriptions import (
    Package,
    find_list,
    language_of,
    main,
    masked,
    paragraphs,
    part_of,
    read_descriptions,
)

SECTIONS = ("games", "net")
LONG = "a sentence that is long enough to be kept as a paragraph"


def _write_lists(folder: Path, num_sources: int) -> None:
    packages, english, german = [], [], []
    for number in range(num_sources):
        for suffix in ("", "-data"):
            key = f"{number:04d}{suffix}"
            packages.append(
                f"Package: p{number}{suffix}\nSource: s{number} (1.0)\nSection: {SECTIONS[number % 2]}\n"
                f"Description: short\nDescription-md5: {key}\n"
            )
            texts = {"en": f"Name{number}{suffix} is {LONG} of {SECTIONS[number % 2]}"}
            texts["de"] = f"Name{number}{suffix} ist ein langer deutscher Satz über {SECTIONS[number % 2]}-Dinge"
            for language, lines in (("en", english), ("de", german)):
                lines.append(
                    f"Package: p{number}{suffix}\nDescription-md5: {key}\nDescription-{language}: short\n"
                    f" {texts[language]}\n .\n  * an item of a list that is as long as a paragraph may be\n"
                )
    prefix = "mirror_dists_bookworm_main_"
    (folder / f"{prefix}binary-amd64_Packages").write_text("\n".join(packages), encoding="utf-8")
    (folder / f"{prefix}i18n_Translation-en").write_text("\n".join(english), encoding="utf-8")
    (folder / f"{prefix}i18n_Translation-de").write_text("\n".join(german), encoding="utf-8")


def _read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_paragraphs_leave_summary_lists_and_short_lines_out() -> None:
    text = f"summary\n{LONG}\nthat goes on.\n.\n  * {LONG}\n.\nshort\n.\n{LONG}"
    assert paragraphs(text) == [f"{LONG} that goes on.", LONG]


def test_words_of_the_original_are_masked_whatever_their_case() -> None:
    assert masked("Das Programm aespipe nutzt AES.\nUnix und mehr", "Aespipe uses aes on unix") == (
        "Das Programm nutzt .\nund mehr"
    )


def test_no_source_package_is_in_two_places(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    _write_lists(tmp_path / "lists", 400)
    output = tmp_path / "texts"
    assert main(["--languages", "de", "--lists", str(tmp_path / "lists"), "--output", str(output)]) == 0

    def sources(name: str) -> set[int]:
        return {int(row["text"].split("Name")[1].split()[0].split("-")[0]) for row in _read(output / f"{name}.jsonl")}

    english, german = sources("en"), sources("de")
    assert len(english) > 100 and len(german) > 100 and not english & german
    assert sources("en_valid") == sources("de_valid")
    assert not sources("en_valid") & (english | german)
    assert english | german == {number for number in range(400) if part_of(f"s{number}") == "train"}
    assert all("Name" not in row["text"] for row in _read(output / "task/test.de.jsonl"))
    learnt = sources("task/train.en")
    assert learnt & english and not learnt & (german | sources("en_valid") | sources("task/test.en"))
    assert not sources("task/test.en") & (english | german | sources("en_valid"))
    labels = [row["label"] for row in _read(output / "task/test.de.jsonl")]
    assert labels.count("games") == labels.count("net") > 5
    assert {tuple(row) for row in _read(output / "parallel.jsonl")} == {("en", "de")}


def test_debian_names_some_languages_otherwise(tmp_path: Path) -> None:
    key, chinese = "0001", "一个用来读写文件的小程序库。"
    stanza = f"Package: p\nDescription-md5: {key}\nDescription-zh_CN: short\n {chinese}\n .\n 太短\n"
    (tmp_path / "list").write_text(stanza, encoding="utf-8")
    found = read_descriptions(tmp_path / "list", "zh", {key: Package("s", "games")})
    assert found == {key: [chinese]}
    stored = tmp_path / "mirror_dists_bookworm_main_i18n_Translation-zh%5fCN"
    stored.touch()
    assert find_list(tmp_path, "Translation-zh_CN") == stored


def test_a_package_without_a_translation_is_english() -> None:
    assert {language_of(f"s{number}", []) for number in range(50)} == {"en"}
    assert {language_of(f"s{number}", ["it", "de"]) for number in range(50)} == {"en", "de", "it"}


def test_missing_lists_and_existing_outputs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--languages", "de", "--lists", str(tmp_path), "--output", str(tmp_path / "texts")]) == 2
    assert "no list *bookworm_main_*_Packages" in capsys.readouterr().err
    assert main(["--lists", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert "exists; remove it" in capsys.readouterr().err
