"""The addressed generator: fixed values, uniform, and independent along every part of an address."""

from itertools import pairwise

import numpy as np
import pytest

from megatron_prealign.codeswitch.draws import Counter, document_keys, draw, mix, stream_keys

NUM_DOCUMENTS, NUM_WORDS = 400, 250


def draw_grid(seed: int = 1, epoch: int = 0, counter: Counter = Counter.SWITCH, shift: int = 0) -> np.ndarray:
    """Draws of 400 documents with keys 0, 1, 2, ... by 250 words."""
    keys = stream_keys(seed, epoch, np.arange(NUM_DOCUMENTS, dtype=np.uint64) + np.uint64(shift))
    words = np.tile(np.arange(NUM_WORDS), NUM_DOCUMENTS)
    return draw(np.repeat(keys, NUM_WORDS), words, counter).reshape(NUM_DOCUMENTS, NUM_WORDS)


def python_mix(value: int) -> int:
    """SplitMix64's next(), in Python integers."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return value ^ (value >> 31)


def test_mix_is_splitmix64() -> None:
    assert int(mix(np.zeros(1, dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF  # published first output for seed 0
    values = [0, 1, 2**63, 2**64 - 1, 12345678901234567]
    assert mix(np.array(values, dtype=np.uint64)).tolist() == [python_mix(value) for value in values]


def test_draws_are_what_the_docstring_says() -> None:
    document, seed, epoch, word = 987654321, -5, 3, 11
    key = python_mix(python_mix(python_mix(seed % 2**64) ^ epoch) ^ document)
    expected = (python_mix(key ^ python_mix(3 * word + 2)) >> 11) / 2**53
    keys = stream_keys(seed, epoch, np.array([document], dtype=np.uint64))
    assert draw(keys, np.array([word]), Counter.TRANSLATION).tolist() == [expected]


def test_document_key_is_a_function_of_the_documents_own_tokens() -> None:
    documents = [[5, 6, 7], [], [7, 6, 5], [5, 6, 7], [5, 6], [0], [0, 0], [5, 6, 7, 0]]
    tokens = np.array([token for document in documents for token in document], dtype=np.uint16)
    offsets = np.cumsum([0, *map(len, documents)])
    keys = document_keys(tokens, offsets).tolist()
    assert keys[0] == keys[3]
    assert len(set(keys)) == len(documents) - 1
    for document, key in zip(documents, keys, strict=True):
        assert document_keys(np.array(document, dtype=np.int32), np.array([0, len(document)])).tolist() == [key]


def test_document_keys_do_not_collide() -> None:
    tokens = np.arange(300_000, dtype=np.int64) % 700
    keys = document_keys(tokens, np.arange(0, 300_001, 2))
    distinct_documents = len({(a, b) for a, b in tokens.reshape(-1, 2).tolist()})
    assert len(np.unique(keys)) == distinct_documents


@pytest.mark.parametrize("counter", list(Counter))
def test_draws_are_uniform(counter: Counter) -> None:
    values = draw_grid(counter=counter)
    assert values.min() >= 0 and values.max() < 1
    histogram = np.histogram(values, bins=100, range=(0, 1))[0]
    expected = values.size / 100
    # Chi-squared with 99 degrees of freedom: mean 99, standard deviation 14.
    assert 50 < ((histogram - expected) ** 2 / expected).sum() < 170
    # Binomial in each document and at each word index: no address is favoured.
    for axis in (0, 1):
        share = (values < 0.05).mean(axis=axis)
        deviation = np.sqrt(0.05 * 0.95 / values.shape[axis])
        assert abs(share - 0.05).max() < 5.5 * deviation
        assert 0.8 < share.std() / deviation < 1.2


def test_draws_are_independent_along_every_part_of_an_address() -> None:
    base = draw_grid()
    others = {
        "seed": draw_grid(seed=2),
        "epoch": draw_grid(epoch=1),
        "language": draw_grid(counter=Counter.LANGUAGE),
        "translation": draw_grid(counter=Counter.TRANSLATION),
    }
    pairs = {name: (base, other) for name, other in others.items()}
    pairs["counters"] = (others["language"], others["translation"])
    pairs["next document"] = (base[:-1], base[1:])
    for lag in (1, 2, 3):
        pairs[f"word {lag} on"] = (base[:, :-lag], base[:, lag:])
    for name, (left, right) in pairs.items():
        correlation = np.corrcoef(left.ravel(), right.ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(left.size), name
        both = ((left < 0.05) & (right < 0.05)).mean()
        assert abs(both - 0.0025) < 5 * np.sqrt(0.0025 / left.size), name


def test_draws_of_far_addresses_do_not_repeat() -> None:
    grids = [draw_grid(), draw_grid(seed=2), draw_grid(epoch=1), draw_grid(shift=2**40), draw_grid(seed=-1)]
    for left, right in pairwise(grids):
        assert len(np.intersect1d(left, right)) < 5
