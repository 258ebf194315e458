"""Shares of a mix: hand-computed, and every reason why one can't be drawn."""

from dataclasses import replace

import numpy as np
import pytest

from megatron_prealign.config.data import BlendEntry, DataConfig
from megatron_prealign.dataset.mix import BakedDataset, MixRequest, MixSegment, deal_out, spread_out

SIZES = {"en": 80_000, "de": 20_000, "sw": 1_250}


def request(*entries: BlendEntry, num_samples: int = 1000, **data: object) -> MixRequest:
    """Ask for samples of 10 tokens, 10 of them a step, of datasets whose prefix, key and language are the same."""
    config = DataConfig(blend=entries or tuple(BlendEntry(prefix=name) for name in SIZES), seq_length=10, **data)  # type: ignore[arg-type]
    datasets = [
        [BakedDataset(name, name, name, SIZES[name]) for name in str(entry.prefix).split("+")] for entry in config.blend
    ]
    return MixRequest(config, datasets, num_samples, last_step=10)


def shares(asked: MixRequest) -> dict[str, float]:
    found, problems = asked.find_shares(0, {})
    assert problems == []
    assert sum(found.values()) == pytest.approx(1)
    return found


def problem(asked: MixRequest, start: int = 0, positions: dict[str, int] | None = None) -> str:
    (found,) = asked.find_shares(start, positions or {})[1]
    return found


def test_what_is_over_a_limit_goes_to_the_others_by_weight() -> None:
    assert spread_out(60, [1, 1, 1], [100, 100, 100]) == [20, 20, 20]
    assert spread_out(60, [1, 1, 1], [5, 100, 100]) == [5, 27.5, 27.5]
    # What the first two leave takes the third above its limit as well: the fourth gets the rest.
    assert spread_out(60, [4, 4, 2, 2], [5, 10, 12, 100]) == [5, 10, 12, 33]
    assert spread_out(60, [1, 3], [10, 20]) == [10, 20], "there is no more"


def test_weights_sizes_and_temperature() -> None:
    weighted = request(BlendEntry(prefix="en", weight=3), BlendEntry(prefix="sw"))
    assert shares(weighted) == {"en": 0.75, "sw": 0.25}
    assert shares(request(BlendEntry(prefix="en+de"))) == {"en": 0.8, "de": 0.2}
    by_size = {name: size / 101_250 for name, size in SIZES.items()}
    assert shares(request(temperature=1.0)) == pytest.approx(by_size)
    roots = {name: size**0.5 for name, size in SIZES.items()}
    expected = {name: root / sum(roots.values()) for name, root in roots.items()}
    assert shares(request(temperature=2.0)) == pytest.approx(expected)


def test_repeats_are_capped() -> None:
    # Of 1,000 samples a third each; sw holds 125 in an epoch, twice that is 250.
    capped = shares(request(max_epochs=2.0))
    assert capped == pytest.approx({"en": 0.375, "de": 0.375, "sw": 0.25})
    own = shares(request(BlendEntry(prefix="en"), BlendEntry(prefix="sw", max_epochs=0.8), max_epochs=4.0))
    assert own == pytest.approx({"en": 0.9, "sw": 0.1})
    # A cap that is not reached leaves a mix that does not depend on the length of the run.
    assert shares(request(max_epochs=3.0)) == shares(request(num_samples=500))


def test_tokens_come_first_and_weights_share_the_rest() -> None:
    entries = (BlendEntry(prefix="sw", tokens=1_000), BlendEntry(prefix="en", weight=2), BlendEntry(prefix="de"))
    assert shares(request(*entries)) == pytest.approx({"sw": 0.1, "en": 0.6, "de": 0.3})
    # All by tokens: up to a step more or less than the run is shared out.
    whole = (BlendEntry(prefix="en", tokens=7_550), BlendEntry(prefix="de", tokens=2_500))
    assert shares(request(*whole)) == pytest.approx({"en": 7_550 / 10_050, "de": 2_500 / 10_050})


def test_what_can_not_be_drawn_is_said_with_numbers() -> None:
    entries = (BlendEntry(prefix="sw", tokens=2_000), BlendEntry(prefix="de", tokens=50_000), BlendEntry(prefix="en"))
    problems = request(*entries, num_samples=10_000).find_shares(0, {})[1]
    assert problems == [
        "data.blend[0] (sw): tokens 2,000 are 1.6 epochs of its 1,250 training tokens, more than the 1 allowed; lower "
        "them, or set its max_epochs to 2",
        "data.blend[1] (de): tokens 50,000 are 2.5 epochs of its 20,000 training tokens, more than the 1 allowed; "
        "lower them, or set its max_epochs to 3",
    ]
    # 125 + 2,000 samples in an epoch, 3,000 wanted.
    short = problem(request(BlendEntry(prefix="sw"), BlendEntry(prefix="de"), num_samples=3_000, max_epochs=1.0))
    assert short.startswith("data.max_epochs: the mix runs out 8,750 tokens, that is 88 steps, before the last step;")
    assert problem(request(BlendEntry(prefix="en", tokens=9_000))).startswith(
        "data.blend: tokens add up to 9,000, 1,000 less than the 10,000 of the run: the mix runs out 10 steps before"
    )
    assert problem(request(BlendEntry(prefix="en", tokens=20_000), BlendEntry(prefix="de"))).startswith(
        "data.blend: tokens add up to 20,000, 10,000 more than the 10,000 of the run; lower them, or raise"
    )
    asked = request(BlendEntry(prefix="en"), BlendEntry(prefix="sw", tokens=1_000))
    assert problem(asked, 400, {"sw": 120, "en": 280}).startswith(
        "data.blend[1] (sw): tokens 1,000, but 1,200 have already been drawn; raise this number"
    )


class TestHistory:
    """A segment more only where the mix is another than before."""

    def test_an_unchanged_or_longer_run_goes_on_as_it_began(self) -> None:
        first, _ = request(temperature=2.0).continue_from([], 0, {})
        assert first == [MixSegment(0, shares(request(temperature=2.0)), {})]
        longer = request(temperature=2.0, num_samples=5000)
        assert longer.continue_from(first, 300, {"en": 200, "de": 80, "sw": 20}) == (first, [])

    def test_tokens_are_those_of_the_whole_run(self) -> None:
        entries = (BlendEntry(prefix="sw", tokens=1_000), BlendEntry(prefix="en"))
        first, _ = request(*entries).continue_from([], 0, {})
        assert request(*entries).continue_from(first, 500, {"sw": 50, "en": 450}) == (first, [])
        # 50 of the 100 samples of sw are left, for 1,500 that are to come.
        history, problems = request(*entries, num_samples=2000).continue_from(first, 500, {"sw": 50, "en": 450})
        assert problems == []
        assert history == [*first, MixSegment(500, {"sw": 50 / 1500, "en": 1450 / 1500}, {"sw": 50, "en": 450})]

    def test_an_entry_that_left_keeps_its_position(self) -> None:
        both, alone = (BlendEntry(prefix="en"), BlendEntry(prefix="de")), (BlendEntry(prefix="en"),)
        first, _ = request(*both).continue_from([], 0, {})
        second, _ = request(*alone).continue_from(first, 100, {"en": 50, "de": 50})
        assert second == [*first, MixSegment(100, {"en": 1.0}, {"en": 50, "de": 50})]
        # Nothing was drawn from the second mix: the third takes its place.
        third, _ = request(*both).continue_from(second, 100, {"en": 50, "de": 50})
        assert third == [*first, MixSegment(100, {"en": 0.5, "de": 0.5}, {"en": 50, "de": 50})]

    def test_a_run_that_is_done_is_left_alone(self) -> None:
        first, _ = request(num_samples=100).continue_from([], 0, {})
        weighted = request(BlendEntry(prefix="en"), num_samples=100)
        assert weighted.continue_from(first, 100, {"en": 100}) == (first, [])


def test_samples_are_dealt_out_evenly() -> None:
    which, number = deal_out([0.5, 0.3, 0.2], 1000)
    assert np.bincount(which).tolist() == [500, 300, 200]
    for dataset, share in enumerate([0.5, 0.3, 0.2]):
        assert number[which == dataset].tolist() == list(range(int(1000 * share + 0.5)))
        drawn = np.cumsum(which == dataset)
        assert np.abs(drawn - share * np.arange(1, 1001)).max() <= 1
    assert deal_out([0.5, 0.3, 0.2], 10)[0].tolist() == which[:10].tolist()


def test_the_table_says_tokens_and_epochs() -> None:
    entries = (BlendEntry(prefix="en+de", language="x"), BlendEntry(prefix="sw", language="sw"))
    asked = replace(request(*entries), num_samples=3000)
    first, _ = asked.continue_from([], 0, {})
    assert asked.describe(first, 0, {}).splitlines() == [
        "Mix:",
        "  entry               language  share   total tokens  epochs  drawn so far",
        "  en+de (2 datasets)  x         50.00%  15,000        0.15    0",
        "  sw                  sw        50.00%  15,000        12.00   0",
    ]
    positions = {"en": 40, "de": 10, "sw": 50}
    alone = replace(request(entries[1]), num_samples=3000)
    second, _ = alone.continue_from(first, 100, positions)
    assert alone.describe(second, 100, positions).splitlines()[::2] == [
        "Mix from sample 100 on:",
        "  sw     sw        100.00%  29,500        23.60   500",
    ]
