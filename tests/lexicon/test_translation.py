"""Translation over HTTP: a real server on this machine that answers, refuses, stalls and forgets as asked."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import read_lexicon
from megatron_prealign.lexicon.translation import KEY_VARIABLE, Translator, parse_answer, read_journal, translate_words
from tools.build_lexicon import main

KEY = "sk-very-secret-0123456789"
GERMAN = {"bank": ["Bank", "Ufer"], "house": ["Haus"], "the": ["der", "die"], "water": ["Wasser"], "sun": ["Sonne"]}


class Server(ThreadingHTTPServer):
    """Speaks enough of the OpenAI protocol, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.starts: list[float] = []
        self.refusals: list[int] = []
        self.fail_after: int | None = None
        self.forgotten: dict[str, int] = {}
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def words_asked(self) -> list[str]:
        return [word for request in self.requests for word in words_of(request)]


def words_of(request: dict[str, Any]) -> list[str]:
    return str(request["messages"][-1]["content"]).rsplit("\n\n", 1)[1].split("\n")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.starts.append(time.monotonic())
            self.server.keys.append(self.headers.get("Authorization"))
            status = self.server.refusals.pop(0) if self.server.refusals else 200
            if self.server.fail_after is not None and len(self.server.requests) >= self.server.fail_after:
                status = 401
            if status == 200:
                self.server.requests.append(request)
            remembered = self._remembered(words_of(request)) if status == 200 else []
        answer = json.dumps({word: {"de": GERMAN.get(word, [])} for word in remembered})
        body: dict[str, Any] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": answer}}]}
        if status != 200:
            body = {"error": {"message": f"refused, you sent {self.headers.get('Authorization')}"}}
        content = json.dumps(body).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _remembered(self, words: list[str]) -> list[str]:
        for word in words:
            self.server.forgotten[word] = self.server.forgotten.get(word, 0) - 1
        return [word for word in words if self.server.forgotten[word] < 0]

    def log_message(self, *arguments: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def translator(server: Server, **changes: Any) -> Translator:
    values: dict[str, Any] = {"endpoint": server.endpoint, "model": "m", "source_language": "en", "languages": ("de",)}
    return Translator(**{**values, "batch_size": 2, **changes})


def test_words_are_translated_in_batches(server: Server, tmp_path: Path) -> None:
    result = translate_words(list(GERMAN), translator(server), tmp_path / "j")
    assert [(word, t.word, t.weight) for word, t in result.pairs] == [
        (word, german, 1 / position) for word, found in GERMAN.items() for position, german in enumerate(found, start=1)
    ]
    assert sorted(len(words_of(request)) for request in server.requests) == [1, 2, 2]
    assert {request["model"] for request in server.requests} == {"m"}
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_refusals_for_now_are_retried_and_forgotten_words_asked_again(server: Server, tmp_path: Path) -> None:
    server.refusals = [429, 429]
    server.forgotten = {"house": 1, "sun": 9}
    result = translate_words(list(GERMAN), translator(server, num_concurrent=1), tmp_path / "j")
    assert {word for word, _ in result.pairs} == set(GERMAN) - {"sun"}
    assert result.untranslated == ["sun"]
    assert words_of(server.requests[-1]) == ["house", "sun"]


def test_a_stopped_run_goes_on(server: Server, tmp_path: Path) -> None:
    journal = tmp_path / "j"
    server.fail_after = 1
    with pytest.raises(DataError, match="refused with status 401"):
        translate_words(list(GERMAN), translator(server, num_concurrent=1), journal)
    server.fail_after = None
    with open(journal, "a") as stream:
        stream.write('{"answers": {"hou')  # killed while it wrote
    result = translate_words(list(GERMAN), translator(server, num_concurrent=1), journal)
    assert result.num_resumed == 2
    assert {word for word, _ in result.pairs} == set(GERMAN)
    assert sorted(server.words_asked()) == sorted(GERMAN)
    assert set(read_journal(journal, translator(server))) == set(GERMAN)
    with pytest.raises(DataError, match="answers were made with other settings"):
        translate_words(["bank"], translator(server, model="other"), journal)
    journal.write_text("nonsense\n")
    with pytest.raises(DataError, match=r"j:1: not a journal"):
        translate_words(["bank"], translator(server), journal)


def test_the_rate_is_limited_across_threads(server: Server, tmp_path: Path) -> None:
    limited = translator(server, batch_size=1, num_concurrent=5, requests_per_minute=600)
    translate_words(list(GERMAN), limited, tmp_path / "j")
    # Five requests, a tenth of a second apart: four intervals at least, however slow the machine.
    assert server.starts[-1] - server.starts[0] > 0.25


def test_the_key_is_in_no_message_and_no_file(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    (tmp_path / "c.txt").write_text("the bank the house the water\n")
    arguments = ["translate", "--corpus", str(tmp_path / "c.txt"), "--languages", "de", "--endpoint", server.endpoint]
    arguments += ["--model", "m", "--output", str(tmp_path / "out.tsv"), "--num-words", "3", "--batch-size", "2"]
    server.fail_after = 1
    assert main([*arguments, "--concurrent", "1"]) == 2
    assert KEY in str(server.keys) and not (tmp_path / "out.tsv").exists()
    server.fail_after = None
    assert main(arguments) == 0
    assert KEY not in "".join(capsys.readouterr()) + caplog.text
    assert [path.name for path in tmp_path.iterdir() if KEY in path.read_text()] == []
    lexicon = read_lexicon([tmp_path / "out.tsv"], "en")
    assert [entry.word for entry in lexicon.entries] == ["the", "bank", "house"]  # by frequency, then alphabet
    assert not (tmp_path / "out.tsv.journal").exists()
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_no_server_is_an_error(tmp_path: Path) -> None:
    nobody = Translator(endpoint="http://127.0.0.1:9/v1", model="m", source_language="en", languages=("de",))
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/v1: no usable answer \(APIConnectionError\)"):
        translate_words(["bank"], Translator(**{**vars(nobody), "num_retries": 0}), tmp_path / "j")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"bank": {"de": ["Bank"]}}', ["Bank"]),
        ('Sure!\n```json\n{"bank": {"de": ["Bank", "Bank", "Ufer"]}}\n```', ["Bank", "Ufer"]),
        ('{"bank": {"de": "Bank", "fr": ["banque"]}, "other": {"de": ["x"]}}', ["Bank"]),
        ('{"bank": {"de": ["", 3, null, "a\\u0000", "Ufer"]}}', ["Ufer"]),
        ('{"bank": ["Bank"]}', []),
        ("[1, 2]", []),
        ("I can't do that.", []),
        ("}{", []),
    ],
)
def test_answers_in_all_shapes(text: str, expected: list[str]) -> None:
    assert parse_answer(text, ["bank"], ["de"]) == {"bank": {"de": expected} if expected else {}}
