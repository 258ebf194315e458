"""The command line of the bake, as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from tools.preprocess_codeswitch import main


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A corpus, a tokenizer and a dictionary on disk, and the options that name them."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    texts = ["the bank is here", "where the bank was", "the <|endoftext|> of the bank"]
    tokenizer.train_from_iterator(texts * 10, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    (tmp_path / "tok").mkdir()
    tokenizer.save(str(tmp_path / "tok" / "tokenizer.json"))
    corpus = "".join(json.dumps({"content": text}) + "\n" for text in texts * 50)
    (tmp_path / "corpus.jsonl").write_text(corpus, encoding="utf-8")
    (tmp_path / "en-de.txt").write_text("bank ufer\nbank kredit\nhere hier\n", encoding="utf-8")
    options = {"input": "corpus.jsonl", "tokenizer-model": "tok", "lexicon": "en-de.txt", "output-prefix": "out/en"}
    named = [part for name, value in options.items() for part in (f"--{name}", str(tmp_path / value))]
    return [*named, "--target-language", "de", "--json-key", "content", "--workers", "1", "--append-eod"]


def test_bake_verify_and_inspect(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--codeswitch-ratio", "0.5"]) == 0
    report = capsys.readouterr().out
    for part in ("documents", "150", "words covered", "words switched", "tokens switched", "words into de"):
        assert part in report
    prefix, tokenizer = str(tmp_path / "out/en_content_document"), str(tmp_path / "tok")
    assert main(["--verify", prefix, "--tokenizer-model", tokenizer]) == 0
    assert "no problems found" in capsys.readouterr().out
    assert main(["--inspect", prefix, "--document", "2", "--tokenizer-model", tokenizer]) == 0
    # The literal special string is text; the end-of-document token is the last.
    assert capsys.readouterr().out.startswith("the <|endoftext|> of the ")
    Path(f"{prefix}.bin").write_bytes(b"damaged")
    assert main(["--verify", prefix]) == 1
    assert "problem:" in capsys.readouterr().out


def test_errors_have_code_2_and_leave_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--codeswitch-ratio", "7", "--tokenizer-model", str(tmp_path / "absent")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 2 problems:") and "absent" in error and "[0, 1]" in error
    assert main([]) == 2
    assert "--input is required" in capsys.readouterr().err
    assert main([*arguments, "--json-key", "text"]) == 2
    assert "corpus.jsonl:1: no key 'text' (there are 'content')" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_the_bake_starts_without_torch(arguments: list[str]) -> None:
    # The heavy imports of training would cost more than a small bake takes.
    code = (
        "import sys; from tools.preprocess_codeswitch import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'megatron', 'transformers', 'datatrove'} & set(sys.modules); "
        "print(heavy); sys.exit(code or bool(heavy))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
