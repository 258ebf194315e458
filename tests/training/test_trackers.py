"""What trackers are told, and packages that are not there."""

import pytest

from megatron_prealign.config.root import LoggingConfig
from megatron_prealign.training import trackers
from megatron_prealign.training.metrics import scalars


def test_a_missing_package_is_refused_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert trackers.missing_packages(LoggingConfig()) == []
    assert trackers.missing_packages(LoggingConfig(wandb_project="p", mlflow_experiment="e")) == [
        f"--logging.{field} needs the package {package}: pip install 'megatron-prealign[logging]', or set it to none"
        for field, package in (("wandb_project p", "wandb"), ("mlflow_experiment e", "mlflow"))
    ]


def test_every_number_of_a_record_has_a_name() -> None:
    record = {
        "kind": "valid",
        "step": 3,
        "steps": 9,
        "tokens": 4,
        "loss": {"en": 2.5},
        "retrieval": {"trained": {"en-de": {"p_at_1": [0.5, None], "num_pairs": 7}}},
    }
    assert dict(scalars(record)) == {
        "tokens": 4.0,
        "loss/en": 2.5,
        "retrieval/trained/en-de/p_at_1/0": 0.5,
        "retrieval/trained/en-de/num_pairs": 7.0,
    }
