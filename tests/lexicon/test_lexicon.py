from pathlib import Path

import pytest

from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.lexicon import Lexicon, LexiconEntry, Translation, read_lexicon

PAIRS = [
    ("bank", Translation("Bank", "de", 2.0)),
    ("bank", Translation("银行", "zh")),
    ("house", Translation("Haus", "de")),
    ("bank", Translation("Ufer", "de", 0.1)),
]


@pytest.fixture
def lexicon() -> Lexicon:
    return Lexicon.from_pairs("en", PAIRS)


def test_pairs_are_grouped_in_order_of_appearance(lexicon: Lexicon) -> None:
    assert [entry.word for entry in lexicon.entries] == ["bank", "house"]
    assert [translation.word for translation in lexicon.entries[0].translations] == ["Bank", "银行", "Ufer"]
    assert (len(lexicon), lexicon.num_pairs, lexicon.languages) == (2, 4, ("de", "zh"))


def test_repeated_pair_is_kept_once_with_its_largest_weight() -> None:
    weights = [("a", Translation("b", "de", weight)) for weight in (1.0, 3.0, 2.0)]
    same_word_elsewhere = [("a", Translation("b", "nl"))]
    entries = Lexicon.from_pairs("en", weights + same_word_elsewhere).entries
    assert entries == (LexiconEntry("a", (Translation("b", "de", 3.0), Translation("b", "nl"))),)


def test_invariants() -> None:
    entry = LexiconEntry("a", (Translation("b", "de"),))
    with pytest.raises(ValueError, match="unique"):
        Lexicon("en", (entry, entry))
    with pytest.raises(ValueError, match="at least one"):
        Lexicon("en", (LexiconEntry("a", ()),))


def test_fingerprint_covers_everything(lexicon: Lexicon) -> None:
    word, first = PAIRS[0]
    others = [
        Lexicon.from_pairs("fr", PAIRS),
        Lexicon.from_pairs("en", PAIRS[::-1]),
        Lexicon.from_pairs("en", PAIRS[:-1]),
        *(
            Lexicon.from_pairs("en", [(word, changed), *PAIRS[1:]])
            for changed in (first._replace(word="B"), first._replace(language="nl"), first._replace(weight=2.5))
        ),
    ]
    fingerprints = {other.fingerprint for other in [lexicon, *others]}
    assert len(fingerprints) == len(others) + 1
    assert Lexicon.from_pairs("en", PAIRS).fingerprint == lexicon.fingerprint
    assert len(lexicon.fingerprint) == 64


def test_tsv_round_trip(lexicon: Lexicon, tmp_path: Path) -> None:
    path = tmp_path / "lexicon.tsv"
    lexicon.write_tsv(path)
    again = read_lexicon([path], "en")
    assert again == lexicon
    assert again.fingerprint == lexicon.fingerprint
    assert path.read_text(encoding="utf-8").splitlines()[:2] == [
        "source\ttranslation\tlanguage\tweight",
        "bank\tBank\tde\t2.0",
    ]


def test_tsv_is_not_overwritten_unasked(lexicon: Lexicon, tmp_path: Path) -> None:
    path = tmp_path / "lexicon.tsv"
    path.write_text("mine")
    with pytest.raises(DataError, match="exists"):
        lexicon.write_tsv(path)
    assert path.read_text() == "mine"
    lexicon.write_tsv(path, overwrite=True)
    assert read_lexicon([path], "en") == lexicon


@pytest.fixture
def many() -> Lexicon:
    return Lexicon.from_pairs("en", [(f"word{index}", Translation(f"Wort{index}", "de")) for index in range(2000)])


def test_split_is_a_partition_of_the_asked_size(many: Lexicon) -> None:
    train, held_out = many.split(0.2, seed=7)
    assert {*train.entries} | {*held_out.entries} == {*many.entries}
    assert len(train) + len(held_out) == 2000
    assert 340 < len(held_out) < 460  # 400 expected, standard deviation 18


def test_split_depends_on_seed_and_word_alone(many: Lexicon) -> None:
    held_out = {entry.word for entry in many.split(0.2, seed=7)[1].entries}
    half = Lexicon("en", many.entries[1000:][::-1])
    assert {entry.word for entry in half.split(0.2, seed=7)[1].entries} == held_out & {e.word for e in half.entries}
    assert {entry.word for entry in many.split(0.2, seed=8)[1].entries} != held_out
    assert held_out < {entry.word for entry in many.split(0.3, seed=7)[1].entries}


def test_split_keeps_upper_and_lower_case_together() -> None:
    words = [form for index in range(200) for form in (f"word{index}", f"Word{index}", f"WORD{index}")]
    lexicon = Lexicon.from_pairs("en", [(word, Translation("x", "de")) for word in words])
    train, held_out = ({entry.word.lower() for entry in part.entries} for part in lexicon.split(0.5, seed=1))
    assert not train & held_out


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_split_refuses_a_ratio_outside_its_range(many: Lexicon, ratio: float) -> None:
    with pytest.raises(ConfigError, match="held_out_ratio"):
        many.split(ratio, seed=1)


def test_split_extremes(many: Lexicon) -> None:
    assert len(many.split(0.0, seed=1)[1]) == 0
    assert len(many.split(1.0, seed=1)[0]) == 0
