"""Lexicons for a corpus: which words are chosen, how variants differ, and what of a text they reach."""

import json
from collections import Counter
from pathlib import Path

import pytest

from examples import permute_lexicon
from examples.permute_lexicon import permuted
from examples.real_languages import dictionaries, lexicon, reach
from examples.real_languages.data import DescriptionData, LexiconVariant
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.lexicon.lexicon import Translation
from megatron_prealign.text.tokenizer import load_tokenizer
from tests.evaluation.folders import make_folder


def _lexicon(*pairs: tuple[str, str, float]) -> Lexicon:
    return Lexicon.from_pairs("en", [(word, Translation(other, "de", weight)) for word, other, weight in pairs])


def test_the_words_of_the_text_are_chosen() -> None:
    chosen = lexicon.most_frequent(_lexicon(("a", "x", 1), ("b", "y", 1), ("C", "z", 1)), Counter(c=3, b=2), 2)
    assert [entry.word for entry in chosen.entries] == ["C", "b"]


def test_translations_are_weighted_by_the_text() -> None:
    counts = {"de": Counter({"ufer": 1, "bank": 8})}
    ranked = lexicon.ranked_by_corpus(
        _lexicon(("bank", "Ufer", 1.0), ("bank", "Bank", 0.5), ("bank", "Bord", 1)), counts
    )
    heaviest = lexicon.heaviest(ranked, 2).entries[0].translations
    assert [(t.word, t.weight) for t in heaviest] == [("Bank", 0.8), ("Ufer", 0.2)]


def test_forms_of_the_text_share_the_weight_of_a_translation() -> None:
    counts = {"de": Counter({"paket": 1, "pakete": 2, "paketen": 1, "paketverwaltung": 9, "pakt": 5})}
    (entry,) = lexicon.inflected(_lexicon(("package", "Paket", 1.0)), counts).entries
    assert {t.word: t.weight for t in entry.translations} == {"Paket": 0.25, "Pakete": 0.5, "Paketen": 0.25}


def test_translations_that_the_text_has_far_too_seldom_are_dropped() -> None:
    counts = {"en": Counter({"is": 50, "file": 50, "rare": 1}), "de": Counter({"dateien": 1, "x": 98, "west": 1})}
    pairs = _lexicon(("is", "West", 1.0), ("file", "Datei", 1.0), ("file", "Feile", 1.0), ("rare", "selten", 1.0))
    kept = {(word, t.word) for word, t in lexicon.plausible(pairs, counts, 0.03).pairs()}
    assert kept == {("rare", "selten"), ("file", "Datei")}


@pytest.mark.parametrize(
    ("word", "other", "related"),
    [("datei", "dateien", True), ("haus", "hauses", True), ("finden", "findet", True), ("haus", "hausbesitz", False)],
)
def test_words_that_differ_by_an_ending_are_forms(word: str, other: str, related: bool) -> None:
    assert lexicon.are_forms(word, other) is related


def test_a_permutation_keeps_words_and_translations_and_breaks_pairs() -> None:
    pairs = [(f"w{number}", f"t{number}", 1.0) for number in range(50)]
    true = _lexicon(*pairs)
    dealt = permuted(true, 1.0, 1)
    assert [entry.word for entry in dealt.entries] == [entry.word for entry in true.entries]
    assert sorted(t.word for _, t in dealt.pairs()) == sorted(t.word for _, t in true.pairs())
    assert len(set(dealt.pairs()) & set(true.pairs())) < 5
    assert permuted(true, 1.0, 1) == dealt != permuted(true, 1.0, 2)
    assert permuted(true, 0.0, 1) == true
    half = permuted(true, 0.5, 1)
    assert 10 < len(set(half.pairs()) & set(true.pairs())) < 40


def test_all_translations_of_a_word_go_to_another_word_of_the_language(tmp_path: Path) -> None:
    rows = "".join(f"w{n}\ta{n}\tde\t0.7\nw{n}\tb{n}\tde\t0.3\n" for n in range(9)) + "w1\tx\tit\t1.0\n"
    (tmp_path / "true.tsv").write_text(rows, encoding="utf-8")
    files = ["--lexicon", str(tmp_path / "true.tsv"), "--output", str(tmp_path / "dealt.tsv")]
    assert permute_lexicon.main(files) == 0
    entries = {entry.word: entry.translations for entry in read_lexicon([tmp_path / "dealt.tsv"], "en").entries}
    assert [t.word for t in entries["w1"] if t.language == "it"] == ["x"]
    for translations in entries.values():
        (one, other) = (t for t in translations if t.language == "de")
        assert (one.word[1:], one.weight, other.weight) == (other.word[1:], 0.7, 0.3)
    assert permute_lexicon.main([*files, "--ratio", "1.5"]) == 2


def _files(tmp_path: Path) -> tuple[list[str], Path]:
    words = [f"word{chr(97 + number)}" for number in range(20)]
    rows = "".join(f"{word}\t{word[::-1]}\tde\t1.0\n" for word in words)
    (tmp_path / "all.tsv").write_text(f"source\ttranslation\tlanguage\tweight\n{rows}", encoding="utf-8")
    for language, text in (
        ("en", " ".join(words)),
        ("de", " ".join(word[::-1] for word in words[:10]) + " " + "x " * 10),
    ):
        (tmp_path / f"{language}.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    texts = [f"--text={language}={tmp_path}/{language}.jsonl" for language in ("en", "de")]
    return ["--lexicon", str(tmp_path / "all.tsv"), "--held-out-ratio", "0.3", *texts], tmp_path


def test_variants_hold_the_same_words_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, folder = _files(tmp_path)
    for name, options in (("true", []), ("half", ["--share", "0.5"]), ("corpus", ["--rank-by", "corpus"])):
        assert lexicon.main([*arguments, *options, "--output", str(folder / name)]) == 0
    held_out = {(folder / name / "held_out.tsv").read_text() for name in ("true", "half", "corpus")}
    assert len(held_out) == 1
    true, half, corpus = (read_lexicon([folder / name / "lexicon.tsv"], "en") for name in ("true", "half", "corpus"))
    assert 0 < len(half) < len(true) == len(corpus)
    assert set(half.entries) < set(true.entries)
    counts = json.loads((folder / "true/counts.json").read_text())
    seen = sum(entry.word in [f"word{chr(97 + number)}" for number in range(10)] for entry in true.entries)
    assert counts["de"]["running_words_ratio"] == seen / 20
    capsys.readouterr()
    wrong = [*arguments, "--share", "0", "--num-words", "1", "--text", "de", "--output", str(folder / "x")]
    assert lexicon.main(wrong) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ("--share is 0.0", "--num-words is 1", "--text de: write LANGUAGE=FILE"))


def test_what_a_lexicon_reaches(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_folder(tmp_path / "model"))
    words = _lexicon(("house", "Haus", 1.0), ("home", "Haus", 3.0), ("home", "Heim", 1.0))
    counts = Counter({"Haus": 4, "haus": 2, "Hauses": 1, "und": 3})
    english = reach.count_tokens({"and": 1}, reach.encode(["and"], tokenizer))
    found = reach.reach(words, "de", counts, english, tokenizer)
    assert (found["running_words"], found["lexicon_words"]) == (10, 2)
    assert (found["words"], found["any_case"], found["forms"]) == (0.4, 0.6, 0.7)
    assert (found["ambiguous"], found["likeliest"]) == (0.5, 0.875)
    lengths = {word: len(tokenizer.encode_word(word, True)) for word in counts}
    total = sum(lengths[word] * count for word, count in counts.items())
    assert found["tokens"] == round(4 * lengths["Haus"] / total, 3)
    assert found["tokens_a_word"] == round(total / 10, 2)


def test_translations_are_looked_up_in_context() -> None:
    words = _lexicon(("file", "Datei", 1.0), ("file", "Reihe", 3.0), ("open", "offen", 1.0))
    rows = [{"en": "A File.", "de": "Eine Datei."}, {"en": "open it", "de": "offen, eine Reihe"}, {"en": "file"}]
    assert reach.in_context(words, "de", rows) == {"in_context": 0.625, "by_chance": 0.375}


def test_dictionaries_are_named_with_their_direction() -> None:
    options = dictionaries.inputs(["de", "da"], Path("d"))
    assert options == [
        *("--input", "de=d/freedict-eng-deu.index", "--reverse-input", "de=d/de-en"),
        *("--input", "da=d/freedict-eng-dan.index"),
    ]


def test_lexicons_of_one_ranking_share_their_dictionaries() -> None:
    made = DescriptionData(
        folder=Path("d"), languages=("de",), num_words=10, max_translations=2, vocab_size=300, packages=None
    )
    variants = [LexiconVariant(), LexiconVariant(permuted=1.0), LexiconVariant(share=0.5, rank_by="corpus")]
    steps = [made.lexicon_step(variant) for variant in variants]
    names = ["lexicon_dictionary", "lexicon_dictionary_permuted_1", "lexicon_0.5_corpus"]
    assert [step.name for step in steps] == names
    needed = ["dictionaries_dictionary", "lexicon_dictionary", "dictionaries_corpus"]
    assert [step.depends_on[0].name for step in steps] == needed
    assert {variant: made.lexicons(variant)[1].parent.name for variant in variants[:2]} == dict.fromkeys(
        variants[:2], "lexicon_dictionary"
    )
