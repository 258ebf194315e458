"""Which taps a choice names, with what weight, and what is refused."""

import pytest

from megatron_prealign.config.alignment import tap_names, tap_weights
from megatron_prealign.errors import ConfigError


def test_tied_embeddings_are_one_tap() -> None:
    assert tap_names(2, tied=True) == ["embedding", "layer_1", "layer_2"]
    assert tap_names(2, tied=False) == ["embedding", "layer_1", "layer_2", "output_embedding"]


@pytest.mark.parametrize(
    ("choice", "tied", "expected"),
    [
        ("all", False, [1 / 8] * 8),
        ("all", True, [1 / 7] * 7),
        ("embeddings", False, [0.5, 0, 0, 0, 0, 0, 0, 0.5]),
        ("embeddings", True, [1, 0, 0, 0, 0, 0, 0]),
        ("middle", False, [0, 0, 0, 0.5, 0.5, 0, 0, 0]),
        ("layer_2", True, [0, 0, 1, 0, 0, 0, 0]),
        (" embedding, layer_6:3 ", True, [0.25, 0, 0, 0, 0, 0, 0.75]),
        ("output_embedding:0.5,layer_1:1.5", False, [0, 0.75, 0, 0, 0, 0, 0, 0.25]),
    ],
)
def test_choice(choice: str, tied: bool, expected: list[float]) -> None:
    assert tap_weights(choice, 6, tied=tied) == pytest.approx(expected)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_every_model_has_a_middle(num_layers: int) -> None:
    assert sum(tap_weights("middle", num_layers, tied=True)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("choice", "problems"),
    [
        ("layer_7", ["--alignment.taps: this model has no tap 'layer_7'; did you mean layer_6?"]),
        ("", ["--alignment.taps: this model has no tap ''; the taps are embedding, layer_1 .. layer_6"]),
        ("layer_1,all:2", ["--alignment.taps: this model has no tap 'all'; give all alone, without a weight"]),
        ("layer_1,layer_1", ["--alignment.taps names layer_1 twice; give it one weight"]),
        (
            "layer_1:0,layer_2:x,layer_3:-1,layer_4:1e308",
            [
                "--alignment.taps: the weight of layer_1 must be a number from 1e-06 to 1e+06, got '0'",
                "--alignment.taps: the weight of layer_2 must be a number from 1e-06 to 1e+06, got 'x'",
                "--alignment.taps: the weight of layer_3 must be a number from 1e-06 to 1e+06, got '-1'",
                "--alignment.taps: the weight of layer_4 must be a number from 1e-06 to 1e+06, got '1e308'",
            ],
        ),
        # A tap that only untied embeddings have.
        ("output_embedding", ["--alignment.taps: this model has no tap 'output_embedding'; did you mean embedding?"]),
    ],
)
def test_refusals(choice: str, problems: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        tap_weights(choice, 6, tied=True)
    assert error.value.problems == problems
