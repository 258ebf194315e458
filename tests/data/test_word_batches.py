"""Word batches against double loops on random lexicons with polysemy, shared translations and equal spellings."""

import random
from collections import Counter
from pathlib import Path
from string import ascii_letters

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from megatron_prealign.data.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.data.word_batches import WordBatch, WordBatches, WordTable
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import Lexicon, LexiconEntry, Translation

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


def gather(
    batches: WordBatches, index: int, size: int, pad_multiple: int = 1
) -> tuple[WordBatch, np.ndarray, np.ndarray]:
    """Return one rank's batch and the token ids and masks of all ranks together."""
    shares = [batches.batch(index, rank=rank, size=size, pad_multiple=pad_multiple) for rank in range(size)]
    assert [share.start for share in shares[1:]] == [share.stop for share in shares[:-1]]
    assert (shares[0].start, shares[-1].stop) == (0, len(shares[0].valid))
    for share in shares[1:]:
        for name in ("group_ids", "word_ids", "valid", "excluded_pairs", "num_tokens"):
            assert np.array_equal(getattr(share, name), getattr(shares[0], name)), name
    return shares[0], np.concatenate([s.token_ids for s in shares]), np.concatenate([s.mask for s in shares])


def same(first: WordBatch, second: WordBatch) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in vars(first))


@pytest.mark.parametrize("seed", range(5))
def test_excluded_pairs_equal_a_double_loop(seed: int, bpe: Tokenizer) -> None:
    lexicon = random_lexicon(seed)
    table = WordTable.build(lexicon, bpe, max_word_tokens=16)
    links = {(("en", e.word), (t.language, t.word)) for e in lexicon.entries for t in e.translations}
    batches = WordBatches(table, seed, word_batch_size=24)
    found = Counter()
    for index in range(4):
        batch = batches.batch(index)
        forms = [(table.languages[i], table.words[i]) for i in batch.word_ids[batch.valid]]
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
    batch = WordBatches(table, 0, word_batch_size=3).batch(0)
    forms = [f"{table.languages[i]}:{table.words[i]}" for i in batch.word_ids]
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
    batches = WordBatches(table, 11, word_batch_size=10)
    single, single_ids, single_mask = gather(batches, 2, 1)
    batch, token_ids, mask = gather(batches, 2, size)
    num_words = int(single.valid.sum())
    assert len(batch.valid) == -(-10 * (1 + len(LANGUAGES)) // size) * size
    assert batch.valid.tolist() == [True] * num_words + [False] * (len(batch.valid) - num_words)
    assert np.array_equal(batch.word_ids[batch.valid], single.word_ids[single.valid])
    assert np.array_equal(batch.group_ids[batch.valid], single.group_ids[single.valid])
    assert np.array_equal(batch.excluded_pairs, single.excluded_pairs)
    assert np.array_equal(token_ids[batch.valid], single_ids[single.valid])
    assert np.array_equal(mask[batch.valid], single_mask[single.valid])
    assert not mask[~batch.valid].any()
    assert set(batch.group_ids[~batch.valid]) | set(batch.word_ids[~batch.valid]) <= {-1}


def test_tokens_are_those_of_the_word_in_running_text(bpe: Tokenizer) -> None:
    entry = LexiconEntry("bank", (Translation("银行", "zh"), Translation("Straße", "de")))
    table = WordTable.build(Lexicon("en", (entry,)), bpe, max_word_tokens=16)
    batch = WordBatches(table, 0, word_batch_size=1).batch(0, pad_multiple=4)
    words = {
        table.words[i]: row[mask].tolist()
        for i, row, mask in zip(batch.word_ids, batch.token_ids, batch.mask, strict=True)
    }
    assert words == {
        "bank": bpe.encode_word("bank", spaced=True),
        "银行": bpe.encode_word("银行", spaced=False),
        "Straße": bpe.encode_word("Straße", spaced=True),
    }
    assert batch.num_tokens == sum(map(len, words.values())) == batch.mask.sum()
    assert batch.token_ids.shape[1] % 4 == 0
    assert batch.token_ids.shape[1] - max(map(len, words.values())) < 4
    assert not batch.token_ids[~batch.mask].any()


def test_an_epoch_takes_every_entry_once(bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(3), bpe, max_word_tokens=16)
    batches = WordBatches(table, 5, word_batch_size=16)
    words = np.concatenate([batches.batch(index).word_ids for index in range(5)])
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
    batches = WordBatches(table, 1, word_batch_size=1)
    drawn = Counter(table.words[i] for index in range(2000) for i in batches.batch(index).word_ids)
    assert drawn["bank"] == drawn["banque"] == 2000
    assert drawn["Bank"] + drawn["Ufer"] == 2000
    assert abs(drawn["Bank"] - 1500) < 5 * 20, "five standard deviations"


def test_a_microbatch_is_a_function_of_its_number(bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(9), bpe, max_word_tokens=16)
    forward = [WordBatches(table, 4, word_batch_size=12).batch(index) for index in range(6)]
    batches = WordBatches(table, 4, word_batch_size=12)
    for index in (5, 0, 3, 4, 1, 2):
        assert same(batches.batch(index), forward[index])
    assert not same(WordBatches(table, 5, word_batch_size=12).batch(0), forward[0])


def test_an_entry_met_twice_at_an_epoch_border_is_one_group(bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(1, num_entries=3), bpe, max_word_tokens=16)
    batches = WordBatches(table, 0, word_batch_size=2)
    batch = next(b for b in map(batches.batch, range(1, 300, 3)) if len(set(b.group_ids[b.valid].tolist())) == 1)
    assert len(batch.excluded_pairs) == 0
    assert batch.word_ids[0] in batch.word_ids[1:]


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
    assert (report.num_entries, report.num_dropped_entries, report.num_dropped_words) == (2, 2, 3)
    lengths = {
        word: len(tokenizer.encode_word(word, spaced=True))
        for word in ("house", "road", "law", "Haus", "naiv", "Gesetz")
    }
    assert lengths["house"] < 5 < lengths["Gesetz"]
    assert report.num_truncated_words == sum(length > 5 for length in lengths.values())
    assert report.mean_subwords["de"] == sum(lengths[word] for word in ("Haus", "naiv", "Gesetz")) / 3
    assert np.diff(table.token_offsets).max() == 5


def test_too_small_a_lexicon_is_refused(bpe: Tokenizer) -> None:
    table = WordTable.build(random_lexicon(0), bpe, max_word_tokens=16)
    with pytest.raises(DataError, match=r"40 usable entries, fewer than alignment.word_batch_size 41"):
        WordBatches(table, 0, word_batch_size=41)
    with pytest.raises(DataError, match="no entry"):
        WordTable.build(Lexicon("en", ()), bpe, max_word_tokens=16)
