"""A service that fails, hangs or is slow neither ends a run nor holds it up."""

import threading
from collections.abc import Callable, Mapping

from megatron_prealign.training.trackers import TrackerThread


class Service:
    """Takes records in a list; fails at the steps of `refused`, and waits for `gate` before each."""

    def __init__(self, refused: tuple[int, ...] = (), gate: threading.Event | None = None) -> None:
        self.refused = refused
        self.gate = gate
        self.steps: list[int] = []
        self.closed = False

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        if self.gate is not None:
            self.gate.wait()
        if step in self.refused:
            raise ConnectionError(f"no way to send {step}")
        self.steps.append(step)

    def close(self) -> None:
        self.closed = True


def _run(open_service: Callable[[], Service], num_steps: int) -> list[str]:
    said: list[str] = []
    thread = TrackerThread("S", open_service, said.append)
    for step in range(1, num_steps + 1):
        thread.log({"loss": 1.0}, step)
    thread.close()
    return said


def test_all_records_are_taken_in_order_and_the_service_is_closed() -> None:
    service = Service()
    assert _run(lambda: service, 5) == []
    assert service.steps == [1, 2, 3, 4, 5]
    assert service.closed


def test_refused_records_are_missing_and_said_once() -> None:
    service = Service(refused=(2, 3, 5))
    assert _run(lambda: service, 5) == [
        "S: no way to send 2; training continues without it",
        "S: accepts records again from step 4",
        "S: no way to send 5; training continues without it",
        "S: lacks records; metrics.jsonl has all",
    ]
    assert service.steps == [1, 4]


def test_a_service_that_can_not_be_opened_is_tried_again() -> None:
    service = Service()
    attempts: list[int] = []

    def open_service() -> Service:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError("away")
        return service

    assert _run(open_service, 3) == [
        "S: away; training continues without it",
        "S: accepts records again from step 2",
        "S: lacks records; metrics.jsonl has all",
    ]
    assert service.steps == [2, 3]


def test_a_service_that_hangs_is_left_behind() -> None:
    said: list[str] = []
    gate = threading.Event()
    service = Service(gate=gate)
    thread = TrackerThread("S", lambda: service, said.append, close_seconds=0.01)
    thread.log({"loss": 1.0}, 1)
    thread.close()
    assert said == ["S: not done after 0.01 seconds; metrics.jsonl has all records"]
    gate.set()


def test_of_a_slow_service_a_bounded_number_of_records_wait() -> None:
    said: list[str] = []
    gate = threading.Event()
    service = Service(gate=gate)
    thread = TrackerThread("S", lambda: service, said.append)
    for step in range(1500):
        thread.log({"loss": 1.0}, step)
    gate.set()
    thread.close()
    assert said == ["S: lacks records; metrics.jsonl has all"]
    assert service.steps in (list(range(1000)), list(range(1001)))  # one may be taken out of the queue already
