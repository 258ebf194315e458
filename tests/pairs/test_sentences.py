"""Sentences as items: what is left out and counted, exclusions against a double loop, batches by their number."""

import random
from pathlib import Path

import numpy as np
import pytest

from megatron_prealign.errors import DataError
from megatron_prealign.pairs.sentences import SentenceBatches, SentenceTable, read_aligned
from megatron_prealign.text.tokenizer import load_tokenizer


def test_what_can_not_be_aligned_is_left_out_and_counted(workspace: Path) -> None:
    table = SentenceTable.build(read_aligned([str(workspace / "sentences.tsv")]), load_tokenizer(workspace / "tok"), 32)
    report = table.report
    assert (report.num_groups, report.num_dropped_groups) == (8, 0)
    assert (report.num_long, report.num_unknown, report.num_copies) == (1, 0, 1)
    # The copy of "stern" is German's: the language named first keeps the text.
    groups = [table.languages[a:b] for a, b in zip(table.group_offsets, table.group_offsets[1:], strict=False)]
    assert groups[1] == ("de", "en") and groups[6] == ("en", "fr") and groups[7] == ("de", "en")
    said = report.describe()
    assert said.startswith("Sentences: 8 groups, tokens per sentence de ")
    assert "1 longer than alignment.max_sentence_tokens, left out; 1 equal to the text in another language" in said


def _random_batches(workspace: Path, seed: int) -> tuple[SentenceTable, SentenceBatches]:
    rng = random.Random(seed)
    pool = ["a tree", "the sun", "ein baum", "die sonne", "water", "wasser", "le feu", "fire", "moon", "mond"]
    rows = [
        {language: rng.choice(pool) + rng.choice(["", " und", " a"]) for language in rng.sample(["de", "en", "fr"], 3)}
        for _ in range(60)
    ]
    table = SentenceTable.build(rows, load_tokenizer(workspace / "tok"), 32)
    return table, SentenceBatches(table, seed, 12, row_length=32)


@pytest.mark.parametrize("seed", range(3))
def test_excluded_pairs_equal_a_double_loop(seed: int, workspace: Path) -> None:
    table, batches = _random_batches(workspace, seed)
    found = 0
    for index in range(3):
        batch = batches.batch(index)
        real = batch.num_items
        groups, surfaces = batch.group_ids[:real], table.surface_ids[batch.item_ids[:real]]
        texts = {group: set(surfaces[groups == group].tolist()) for group in groups.tolist()}
        expected = [
            [i, k]
            for i in range(real)
            for k in range(real)
            if groups[i] != groups[k] and texts[groups[i]] & texts[groups[k]]
        ]
        found += len(expected)
        assert batch.excluded_pairs.tolist() == expected
    assert found


def test_ranks_together_hold_the_batch_and_an_epoch_every_group(workspace: Path) -> None:
    table, batches = _random_batches(workspace, 7)
    whole = batches.batch(3)
    shares = [batches.batch(3, rank=rank, size=2) for rank in range(2)]
    tokens = sorted(token for share in shares for token in share.packed.token_ids[share.packed.item_index >= 0])
    assert tokens == sorted(whole.packed.token_ids[whole.packed.item_index >= 0])
    assert whole.num_tokens == len(tokens)
    num_epochs = 12  # whole ones, as 12 groups a batch times as many batches as there are groups
    drawn = [batches.batch(index) for index in range(table.report.num_groups)]
    counts = np.bincount(np.concatenate([batch.item_ids[: batch.num_items] for batch in drawn]))
    assert set(counts.tolist()) == {num_epochs}
    assert batches.mean_tokens == pytest.approx(np.mean([batch.num_tokens for batch in drawn]))


def test_files_without_groups_and_too_few_groups_are_refused(workspace: Path) -> None:
    tokenizer = load_tokenizer(workspace / "tok")
    with pytest.raises(DataError, match=r"none of 1 rows has sentences in two languages of at most alignment.max_sent"):
        SentenceTable.build([{"en": "house", "de": "haus" * 40}], tokenizer, 32)
    table = SentenceTable.build([{"en": "house", "de": "haus"}], tokenizer, 32)
    with pytest.raises(DataError, match=r"1 usable groups of sentences, fewer than alignment.sentence_batch_size 2"):
        SentenceBatches(table, 0, 2, row_length=32)
