"""What evaluations read: documents by language."""

from collections.abc import Mapping, Sequence

from megatron_prealign.errors import DataError, Problems
from megatron_prealign.text.documents import read_documents
from megatron_prealign.text.languages import normalize_language


def read_texts(paths: Mapping[str, Sequence[str]], json_key: str) -> dict[str, list[str]]:
    """Read the documents of each language.

    Args:
        paths: files, folders and globs by language.
        json_key: of the text in JSONL files.

    Raises:
        DataError: files that can't be read, lines without text, and languages without any.
    """
    problems = Problems()
    texts: dict[str, list[str]] = {}
    for language, names in paths.items():
        documents = [document.text for document in read_documents(names, json_key, problems)]
        if not names:
            problems.add(f"texts names no file of {language}; give one, or leave the language out")
        elif documents and not any(text.strip() for text in documents):
            problems.add(f"{', '.join(names)}: all its documents are empty; give {language} a file with text")
        texts.setdefault(normalize_language(language), []).extend(documents)
    problems.raise_if_any()
    if not texts:
        raise DataError("texts names no language; write a language and its file")
    return texts
