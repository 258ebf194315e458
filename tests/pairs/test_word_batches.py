"""Word batches against double loops on random lexicons with polysemy, shared translations and equal spellings."""

import random
from collections import Counter
from pathlib import Path
from string import ascii_letters

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, LexiconEntry, Translation
from megatron_prealign.pairs.batches import ItemBatch, round_up
from megatron_prealign.pairs.words import WordBatches, WordTable
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer

LANGUAGES = ("de", "fr", "zh")


def random_lexicon(seed: int, num_entries: int = 40) -> Lexicon:
    """Draw entries over few distinct words, so that polysemy and shared spellings abound."""
    rng = random.Random(seed)
    pool = [first + second for first in "bdkmst" for second in ("a", "ie", "o", "und", "ausgang")]
    sources = rng.sample(pool + [word + "s" for word in pool], num_entries)
    entries = []
    for source in sources:
        forms = {(rng.choice(pool), rng.choice(LANGUAGES)) for _ in range(rng.randint(1, 5))}
        translations = [Translation(word, language, rng.choice([0.5, 1.0, 3.0])) for word, language in sorted(forms)]
        entries.append(LexiconEntry(source, tuple(translations)))
    return Lexicon("en", tuple(entries))


def make_batches(table: WordTable, seed: int, word_batch_size: int, num_hard_negatives: int = 0) -> WordBatches:
    return WordBatches(table, seed, word_batch_size, row_length=16, num_hard_negatives=num_hard_negatives)


def words_of(batch: ItemBatch) -> list[list[int]]:
    """Return the tokens of each word of this rank, padding words included."""
    packed = batch.packed
    return [packed.token_ids[packed.item_index == word].tolist() for word in range(batch.stop - batch.start)]


def gather(batches: WordBatches, index: int, size: int) -> tuple[ItemBatch, list[list[int]]]:
    """Return one rank's batch and the tokens of the words of all ranks together."""
    shares = [batches.batch(index, rank=rank, size=size) for rank in range(size)]
    assert [share.start for share in shares[1:]] == [share.stop for share in shares[:-1]]
    assert (shares[0].start, shares[-1].stop) == (0, len(shares[0].item_ids))
    for share in shares[1:]:
        for name in ("group_ids", "item_ids", "excluded_pairs", "num_tokens"):
            assert np.array_equal(getattr(share, name), getattr(shares[0], name)), name
    return shares[0], [word for share in shares for word in words_of(share)]


def same(first: ItemBatch, second: ItemBatch) -> bool:
    names = ("group_ids", "item_ids", "excluded_pairs")
    return words_of(first) == words_of(second) and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in names
    )


@pytest.mark.parametrize("seed", range(5))
def test_excluded_pairs_equal_a_double_loop(seed: int, bpe: Tokenizer) -> None:
    lexicon = random_lexicon(seed)
    table = WordTable.build(lexicon, bpe, max_word_tokens=16)
    links = {(("en", e.word), (t.language, t.word)) for e in lexicon.entries for t in e.translations}
    batches = make_batches(table, seed, word_batch_size=24)
    found = Counter()
    for index in range(4):
        batch = batches.batch(index)
        forms = [(table.languages[i], table.words[i]) for i in batch.item_ids[: batch.num_items]]
        expected = []
        for i, first in enumerate(forms):
            for k, second in enumerate(forms):
                spelled, linked = first[1] == second[1], (first, second) in links or (second, first) in links
                if batch.group_ids[i] != batch.group_ids[k] and (spelled or linked):
                    expected.append([i, k])
                    found.update(spelled=spelled, linked=linked, languages=spelled and first[0] != second[0])
        assert batch.excluded_pairs.tolist() == expected
    assert min(found.values()) > 0 and len(found) == 3, "the lexicon must exercise every rule"


def test_equal_spelling_and_polysemy_by_hand(bpe: Tokenizer) -> None:
    entries = (
        LexiconEntry("the", (Translation("die", "de"),)),
        LexiconEntry("die", (Translation("sterben", "de"),)),
        LexiconEntry("pass away", (Translation("sterben", "de"),)),
    )
    table = WordTable.build(Lexicon("en", entries), bpe, max_word_tokens=16)
    batch = make_batches(table, 0, word_batch_size=3).batch(0)
    forms = [f"{table.languages[i]}:{table.words[i]}" for i in batch.item_ids]
    pairs = {frozenset((forms[i], forms[k])) for i, k in batch.excluded_pairs.tolist()}
    assert pairs == {
        frozenset(("en:die", "de:die")),
        frozenset(("de:sterben",)),
        frozenset(("en:die", "de:sterben")),
        frozenset(("en:pass away", "de:sterben")),
    }
    assert len(batch.excluded_pairs) == 2 * 4
    assert len(set(batch.group_ids.tolist())) == 3, "groups are not merged through a shared word"


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ranks_together_hold_the_global_batch(size: int, bpe: Tokenizer) -> None:
    lexicon = random_lexicon(7)
    table = WordTable.build(lexicon, bpe, max_word_tokens=3)
    batches = make_batches(table, 11, word_batch_size=10)
    single, single_words = gather(batches, 2, 1)
    batch, words = gather(batches, 2, size)
    num_words = single.num_items
    assert len(batch.item_ids) == -(-10 * (1 + len(LANGUAGES)) // size) * size
    assert batch.num_items == num_words
    assert np.array_equal(batch.item_ids[:num_words], single.item_ids[:num_words])
    assert np.array_equal(batch.group_ids[:num_words], single.group_ids[:num_words])
    assert np.array_equal(batch.excluded_pairs, single.excluded_pairs)
    assert words[:num_words] == single_words[:num_words]
    assert not any(words[num_words:])
    assert set(batch.group_ids[num_words:]) | set(batch.item_ids[num_words:]) <= {-1}


def test_microbatches_of_a_step_have_equal_shapes(bpe: Tokenizer) -> None:
    batches = make_batches(WordTable.build(random_lexicon(7), bpe, max_word_tokens=16), 11, 10)
    steps = [batches.batches(4, 3, rank=rank, size=2) for rank in range(2)]
    assert [len({batch.packed.token_ids.shape for batch in step}) for step in steps] == [1, 1]
    for offset in range(3):
        assert words_of(steps[0][offset]) + words_of(steps[1][offset]) == gather(batches, 4 + offset, 2)[1]


def test_few_shapes_add_empty_rows(bpe: Tokenizer) -> None:
    batches = make_batches(WordTable.build(random_lexicon(7, 55), bpe, max_word_tokens=16), 11, 50)
    pairs = [(batches.batch(index), batches.batches(index, 1, few_shapes=True)[0]) for index in range(60)]
    exact, few = (Counter(len(pair[side].packed.token_ids) for pair in pairs) for side in (0, 1))
    assert min(exact) > 16
    assert len(few) < len(exact)
    for plain, rounded in pairs:
        num_rows = len(plain.packed.token_ids)
        assert num_rows <= len(rounded.packed.token_ids) <= num_rows * 9 / 8
        assert np.array_equal(rounded.packed.token_ids[:num_rows], plain.packed.token_ids)
        assert set(rounded.packed.item_index[num_rows:].ravel().tolist()) <= {-1}
        assert same(plain, rounded)


def test_sizes_are_rounded_to_eight_in_an_octave() -> None:
    assert [round_up(size) for size in (1, 15, 16, 17, 100, 1000, 1024, 1025)] == [1, 15, 16, 18, 104, 1024, 1024, 1152]
    assert all(size <= round_up(size) <= size * 9 / 8 for size in range(1, 5000))


def test_a_rank_without_a_word_has_a_row_of_padding(bpe: Tokenizer) -> None:
    # One entry has a second language, so all get room for it: the last of many ranks hold padding alone.
    one_language = [LexiconEntry(word, (Translation(f"{word}s", "de"),)) for word in ("sun", "tree", "house")]
    two_languages = LexiconEntry("moon", (Translation("mond", "de"), Translation("lune", "fr")))
    lexicon = Lexicon("en", (two_languages, *one_language))
    batches = make_batches(WordTable.build(lexicon, bpe, max_word_tokens=16), 0, word_batch_size=4)
    batch = batches.batch(0, rank=11, size=12)
    assert set(batch.item_ids[batch.start : batch.stop]) == {-1}
    assert len(batch.packed.token_ids) == 1
    assert set(batch.packed.item_index[0]) == {-1}


def test_tokens_are_those_of_the_word_in_running_text(bpe: Tokenizer) -> None:
    entry = LexiconEntry("bank", (Translation("银行", "zh"), Translation("Straße", "de")))
    table = WordTable.build(Lexicon("en", (entry,)), bpe, max_word_tokens=16)
    batch = make_batches(table, 0, word_batch_size=1).batch(0)
    words = {table.words[form]: tokens for form, tokens in zip(batch.item_ids, words_of(batch), strict=True)}
    assert words == {
        "bank": bpe.encode_word("bank", spaced=True),
        "银行": bpe.encode_word("银行", spaced=False),
        "Straße": bpe.encode_word("Straße", spaced=True),
    }
    assert batch.num_tokens == sum(map(len, words.values()))


def test_an_epoch_takes_every_entry_once(bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(3), bpe, max_word_tokens=16)
    batches = make_batches(table, 5, word_batch_size=16)
    words = np.concatenate([batches.batch(index).item_ids for index in range(5)])
    taken = [table.words[i] for i in words if i >= 0 and table.languages[i] == "en"]
    assert len(taken) == 80, "five microbatches of 16 are two epochs of 40"
    assert len(set(taken[:40])) == 40
    assert len(set(taken[40:])) == 40
    assert taken[:40] != taken[40:]


def test_one_translation_a_language_drawn_by_weight(bpe: Tokenizer) -> None:
    entry = LexiconEntry(
        "bank",
        (Translation("Bank", "de", 3.0), Translation("Ufer", "de", 1.0), Translation("banque", "fr", 0.2)),
    )
    table = WordTable.build(Lexicon("en", (entry,)), bpe, max_word_tokens=16)
    batches = make_batches(table, 1, word_batch_size=1)
    drawn = Counter(table.words[i] for index in range(2000) for i in batches.batch(index).item_ids)
    assert drawn["bank"] == drawn["banque"] == 2000
    assert drawn["Bank"] + drawn["Ufer"] == 2000
    assert abs(drawn["Bank"] - 1500) < 5 * 20, "five standard deviations"


def test_hard_negatives_are_spelt_alike_and_have_no_positive(bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(6), bpe, max_word_tokens=16)
    plain = make_batches(table, 2, 8).batch(1)
    batch = make_batches(table, 2, 8, num_hard_negatives=2).batch(1)
    added = batch.item_ids[plain.num_items : batch.num_items]
    assert np.array_equal(batch.item_ids[: plain.num_items], plain.item_ids[: plain.num_items])
    assert len(added) == 16
    assert {table.languages[form] for form in added} == {"en"}
    groups = batch.group_ids[: batch.num_items].tolist()
    assert all(groups.count(group) == 1 for group in groups[plain.num_items :])

    def tokens(form: int) -> list[int]:
        return table.tokens[form].tolist()

    ordered = sorted(tokens(form) for form in table.sources)
    sources = [form for form in plain.item_ids[: plain.num_items] if table.languages[form] == "en"]
    for place, source in enumerate(sources):
        following = ordered.index(tokens(source)) + np.array([1, 2])
        assert [tokens(form) for form in added[2 * place : 2 * place + 2]] == [
            ordered[i % len(ordered)] for i in following
        ]
    # A negative that is in the batch anyway is none of itself.
    twice = [(i, k) for i in range(len(added)) for k in range(plain.num_items) if added[i] == plain.item_ids[k]]
    assert twice
    excluded = set(map(tuple, batch.excluded_pairs.tolist()))
    assert all((plain.num_items + i, k) in excluded and (k, plain.num_items + i) in excluded for i, k in twice)


def test_a_microbatch_is_a_function_of_its_number(bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(9), bpe, max_word_tokens=16)
    forward = [make_batches(table, 4, word_batch_size=12).batch(index) for index in range(6)]
    batches = make_batches(table, 4, word_batch_size=12)
    for index in (5, 0, 3, 4, 1, 2):
        assert same(batches.batch(index), forward[index])
    assert not same(make_batches(table, 5, word_batch_size=12).batch(0), forward[0])


@pytest.mark.parametrize("num_hard_negatives", [0, 2])
def test_the_expected_tokens_are_those_of_many_microbatches(num_hard_negatives: int, bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(2), bpe, max_word_tokens=16)
    batches = make_batches(table, 0, word_batch_size=20, num_hard_negatives=num_hard_negatives)
    counts = [batches.batch(index).num_tokens for index in range(2000)]
    assert batches.mean_tokens == pytest.approx(np.mean(counts), rel=2e-3)
    one = LexiconEntry("house", (Translation("ausgang", "de", 3.0), Translation("ba", "de", 1.0)))
    lengths = [len(bpe.encode_word(word, spaced=True)) for word in ("house", "ausgang", "ba")]
    by_hand = lengths[0] + 0.75 * lengths[1] + 0.25 * lengths[2]
    assert WordTable.build(Lexicon("en", (one,)), bpe, 16).mean_entry_tokens == pytest.approx(by_hand)


def test_an_entry_met_twice_at_an_epoch_border_is_one_group(bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(1, num_entries=3), bpe, max_word_tokens=16)
    batches = make_batches(table, 0, word_batch_size=2)
    batch = next(b for b in map(batches.batch, range(1, 300, 3)) if len(set(b.group_ids[: b.num_items].tolist())) == 1)
    assert len(batch.excluded_pairs) == 0
    assert batch.item_ids[0] in batch.item_ids[1:]


def test_report_counts_what_was_cut_and_dropped(tmp_path: Path) -> None:
    small = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    small.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(special_tokens=["<unk>"], vocab_size=60, show_progress=False)
    small.train_from_iterator([f"\n0 {ascii_letters} house house", "house\n"], trainer)
    small.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    entries = (
        LexiconEntry("house", (Translation("Haus", "de"), Translation("Häuser", "de"))),
        LexiconEntry("road", (Translation("Straße", "de"),)),
        LexiconEntry("naïve", (Translation("naiv", "de"),)),
        LexiconEntry("law", (Translation("Gesetz", "de"),)),
    )
    table = WordTable.build(Lexicon("en", entries), tokenizer, max_word_tokens=5)
    report = table.report
    assert (report.num_entries, report.num_dropped_entries) == (2, 2)
    assert report.dropped_words == ("naïve", "Häuser", "Straße")
    lengths = {
        word: len(tokenizer.encode_word(word, spaced=True))
        for word in ("house", "road", "law", "Haus", "naiv", "Gesetz")
    }
    assert lengths["house"] < 5 < lengths["Gesetz"]
    assert set(report.truncated_words) == {word for word, length in lengths.items() if length > 5}
    assert report.mean_subwords["de"] == sum(lengths[word] for word in ("Haus", "naiv", "Gesetz")) / 3
    assert table.tokens.lengths.max() == 5
    line = report.describe()
    assert line.startswith("Lexicon: 2 entries, subwords per word en ")
    assert "3 words ('naïve', 'Häuser', 'Straße') unknown to the tokenizer, left out" in line
    assert "1 word ('Gesetz') longer than alignment.max_word_tokens, truncated" in line
    assert "2 entries without a translation, left out" in line
    with pytest.raises(DataError, match=r"none of 1 entries .* no tokens for 2 words \('naïve', 'Straße'\)"):
        WordTable.build(Lexicon("en", (LexiconEntry("naïve", (Translation("Straße", "de"),)),)), tokenizer, 5)


def test_a_word_is_no_translation_of_itself(bpe: Tokenizer) -> None:
    itself = LexiconEntry("house", (Translation("house", "en"),))
    synonym = LexiconEntry("home", (Translation("home", "en"), Translation("house", "en"), Translation("home", "de")))
    table = WordTable.build(Lexicon("en", (itself, synonym)), bpe, max_word_tokens=16)
    assert (table.report.num_entries, table.report.num_dropped_entries) == (1, 1)
    batch = make_batches(table, 0, word_batch_size=1).batch(0)
    forms = [(table.languages[form], table.words[form]) for form in batch.item_ids]
    assert sorted(forms) == [("de", "home"), ("en", "home"), ("en", "house")]
    with pytest.raises(DataError, match=r"none of 1 entries .* 'house', like the rest, is its own translation"):
        WordTable.build(Lexicon("en", (itself,)), bpe, max_word_tokens=16)


def test_too_small_a_lexicon_is_refused(bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(0), bpe, max_word_tokens=16)
    with pytest.raises(DataError, match=r"40 usable entries, fewer than alignment.word_batch_size 41"):
        make_batches(table, 0, word_batch_size=41)
    with pytest.raises(DataError, match=r"num_hard_negatives 40 is more than the other 39 usable entries"):
        make_batches(table, 0, word_batch_size=2, num_hard_negatives=40)
    with pytest.raises(DataError, match=r"none of 0 entries .* it is empty"):
        WordTable.build(Lexicon("en", ()), bpe, max_word_tokens=16)
