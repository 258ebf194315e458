"""Translation of words by a language model on an OpenAI-compatible server, as by PreAlign's authors (sec. 3.1).

Answers are appended to a journal as they arrive, so that a stopped run can be resumed; its first line holds the
settings.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.lexicon.reading import LineError, Pair, make_pair

KEY_VARIABLE = "OPENAI_API_KEY"
_ROUNDS = 2  # words without a usable answer are requested once more, in other batches

_PROMPT = """Translate each {source} word below into: {targets}.
For each language give up to {count} translations, the most common sense first: single words in the form that running \
text has, without articles, brackets or explanations. Give an empty list where there is none.
Answer with one JSON object and nothing else: {{"word": {{"language": ["translation", ...]}}}}.

{words}"""

Answers = dict[str, dict[str, list[str]]]
"""Translations by word and language, the most common first."""


@dataclass(frozen=True, kw_only=True)
class Translator:
    """The server, and what to ask it."""

    endpoint: str
    """Base address of an OpenAI-compatible server, for example http://localhost:8000/v1."""
    model: str
    """The server's name of the model."""
    source_language: str
    """Language of the words."""
    languages: tuple[str, ...]
    """Languages to translate into."""
    max_translations: int = 3
    """Most translations to request per language."""
    batch_size: int = 20
    """Words per request."""
    num_concurrent: int = 4
    """Concurrent requests."""
    requests_per_minute: float | None = None
    """Most requests per minute; None for no limit."""
    num_retries: int = 4
    """Retries of a request after a temporary refusal (429, 5xx) or a lost connection."""
    timeout: float = 120.0
    """Timeout of a request in seconds."""

    def identity(self) -> dict[str, Any]:
        """Return what answers depend on: the first line of the journal."""
        names = ("endpoint", "model", "source_language", "languages", "max_translations")
        return {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in names}


@dataclass
class Translated:
    """The result of a translation."""

    pairs: list[Pair]
    """Word pairs in the order of the words; the k-th translation weighs 1 / k."""
    untranslated: list[str] = field(default_factory=list)
    """Words without a usable translation into any language."""
    num_requests: int = 0
    """Answered requests of this run."""
    num_resumed: int = 0
    """Words that were in the journal already."""


def translate_words(
    words: Sequence[str], translator: Translator, journal: Path, on_progress: Callable[[int], None] = lambda _: None
) -> Translated:
    """Translate words, most important first and without repeats, continuing a journal.

    The key comes from the environment variable OPENAI_API_KEY. `on_progress` is called with the number of words
    answered.

    Raises:
        ConfigError: the openai package is not installed.
        DataError: the journal was written with other settings, or the server refuses permanently.
    """
    answers = read_journal(journal, translator)
    result = Translated([], num_resumed=sum(word in answers for word in words))
    ask = _client(translator)
    limiter = _Limiter(translator.requests_per_minute)
    with open(journal, "a", encoding="utf-8") as stream:
        if not stream.tell():
            _append(stream, {"translator": translator.identity()})
        for _ in range(_ROUNDS):
            missing = [word for word in words if not any(answers.get(word, {}).values())]
            size = translator.batch_size
            batches = [missing[start : start + size] for start in range(0, len(missing), size)]
            for found in _ask_all(batches, ask, limiter, translator):
                _append(stream, {"answers": found})
                answers |= found
                result.num_requests += 1
                on_progress(sum(word in answers for word in words))
    for word in words:
        pairs = list(_pairs(word, answers.get(word, {})))
        result.pairs += pairs
        if not pairs:
            result.untranslated.append(word)
    return result


def read_journal(path: Path, translator: Translator) -> Answers:
    """Return the answers in a journal, without a line that was cut off at its end.

    Raises:
        DataError: it was written with other settings, or is not a journal.
    """
    if not path.exists() or not path.stat().st_size:
        return {}
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):  # a run was killed while writing; its last words are requested again
        with open(path, "r+b") as stream:
            stream.truncate(len(whole))
    answers: Answers = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
            if number == 1:
                if record["translator"] != translator.identity():
                    raise DataError(
                        f"{path}: its answers were made with other settings ({record['translator']}); "
                        "remove the file, or use those settings"
                    )
            else:
                answers |= record["answers"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: not a journal of translations ({error}); remove it") from None
    return answers


def _append(stream: Any, record: Mapping[str, Any]) -> None:
    stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    stream.flush()
    os.fsync(stream.fileno())


class _Limiter:
    """Limits the rate at which requests begin, across threads."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Return when the next request may begin."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
        time.sleep(start - now)


def _ask_all(
    batches: Iterable[list[str]], ask: Callable[[str], str], limiter: _Limiter, translator: Translator
) -> Iterator[Answers]:
    """Yield the answers to each batch as they arrive; the first permanent refusal ends all."""

    def answer(batch: list[str]) -> Answers:
        limiter.wait()
        prompt = _PROMPT.format(
            source=translator.source_language,
            targets=", ".join(translator.languages),
            count=translator.max_translations,
            words="\n".join(batch),
        )
        return parse_answer(ask(prompt), batch, translator.languages)

    with ThreadPoolExecutor(translator.num_concurrent) as pool:
        futures = [pool.submit(answer, batch) for batch in batches]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def parse_answer(text: str, batch: Sequence[str], languages: Sequence[str]) -> Answers:
    """Return the translations of the requested words in a model's answer; everything else in it is ignored.

    Every word of the batch has an entry, empty if the answer has none.
    """
    answers: Answers = {word: {} for word in batch}
    # Models often wrap JSON in prose or code fences.
    start, end = text.find("{"), text.rfind("}")
    try:
        content = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return answers
    for word, by_language in content.items():
        if word not in answers or not isinstance(by_language, dict):
            continue
        for language in languages:
            given = by_language.get(language)
            listed = [given] if isinstance(given, str) else given if isinstance(given, list) else []
            if usable := [item for item in listed if isinstance(item, str) and _is_usable(word, item, language)]:
                answers[word][language] = list(dict.fromkeys(usable))
    return answers


def _is_usable(word: str, translation: str, language: str) -> bool:
    try:
        make_pair(word, translation, language)
    except LineError:
        return False
    return True


def _pairs(word: str, answer: dict[str, list[str]]) -> Iterator[Pair]:
    for language, translations in answer.items():
        for position, translation in enumerate(translations, start=1):
            yield make_pair(word, translation, language, 1.0 / position)


def _client(translator: Translator) -> Callable[[str], str]:
    """Return a function from a prompt to the text of the answer."""
    try:
        import openai
    except ImportError:
        raise ConfigError("the openai package is not installed; pip install 'megatron-prealign[data]'") from None
    client = openai.OpenAI(
        base_url=translator.endpoint,
        api_key=os.environ.get(KEY_VARIABLE) or "none",  # self-hosted servers need none
        max_retries=translator.num_retries,
        timeout=translator.timeout,
    )

    def ask(prompt: str) -> str:
        try:
            response = client.chat.completions.create(
                model=translator.model, messages=[{"role": "user", "content": prompt}], temperature=0.0
            )
            return response.choices[0].message.content or ""
        except openai.APIStatusError as error:
            # Without the server's message: some repeat the key.
            raise DataError(
                f"{translator.endpoint}: refused with status {error.status_code}; check address, model and "
                f"{KEY_VARIABLE}. Answers so far are kept; repeat the command to resume"
            ) from None
        except (openai.OpenAIError, IndexError, AttributeError, TypeError, ValueError) as error:
            raise DataError(
                f"{translator.endpoint}: no usable answer ({type(error).__name__}); is it an OpenAI-compatible server? "
                "Answers so far are kept; repeat the command to resume"
            ) from None

    return ask
