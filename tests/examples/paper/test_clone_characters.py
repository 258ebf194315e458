import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.paper.clone_characters import CLONE_CHARACTERS, clone_text, find_clone_character, unclone_text
from megatron_prealign.errors import DataError

CLONES = set(CLONE_CHARACTERS.values())
TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"], exclude_characters=CLONES), st.sampled_from("aZ 9'."))
)


def test_map_is_one_to_one_over_printable_ascii() -> None:
    assert set(CLONE_CHARACTERS) == set(string.ascii_letters + string.digits + string.punctuation)
    assert len(CLONES) == 94


@pytest.mark.parametrize("original", CLONE_CHARACTERS)
def test_clone_character_looks_like_its_original_to_a_pre_tokenizer(original: str) -> None:
    clone = CLONE_CHARACTERS[original]
    assert len(clone.encode()) == 2
    assert unicodedata.category(clone)[0] == unicodedata.category(original)[0]
    assert unicodedata.normalize("NFKC", clone) == clone
    assert clone.isnumeric() == original.isnumeric()
    if original.isalpha():
        assert unicodedata.category(clone) == unicodedata.category(original)
        assert clone.lower() == CLONE_CHARACTERS[original.lower()]
        assert clone.upper() == CLONE_CHARACTERS[original.upper()]


@given(TEXT)
def test_round_trip_is_exact(text: str) -> None:
    clone = clone_text(text)
    assert unclone_text(clone) == text
    assert len(clone) == len(text)
    assert not set(clone) & set(CLONE_CHARACTERS)


def test_only_printable_ascii_changes() -> None:
    assert clone_text("é 银行\t\n—") == "é 银行\t\n—"


@pytest.mark.parametrize("clone", ["ա", "߀", "܀"])
def test_text_with_clone_characters_is_refused(clone: str) -> None:
    assert find_clone_character(f"one {clone}") == clone
    with pytest.raises(DataError, match=rf"U\+{ord(clone):04X}"):
        clone_text(f"one {clone}")


def test_other_armenian_is_no_clone_character() -> None:
    assert find_clone_character("և plain") is None
