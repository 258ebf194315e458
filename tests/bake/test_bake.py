"""Whole bakes: Megatron's bytes, any number of workers, errors before anything is written, nothing half-written."""

import gzip
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backports import zstd
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder
from megatron.core.datasets.utils import Split

from megatron_prealign.bake import bake as bake_module
from megatron_prealign.bake.bake import bake
from megatron_prealign.bake.executors import LocalWorkers
from megatron_prealign.bake.job import Job
from megatron_prealign.bake.options import BakeOptions
from megatron_prealign.bake.verify import verify
from megatron_prealign.codeswitch.codeswitch import codeswitch
from megatron_prealign.codeswitch.compile_lexicon import compile_lexicon
from megatron_prealign.codeswitch.labels import apply_switch_records
from megatron_prealign.dataset.manifest import Manifest, check_manifest, read_manifest
from megatron_prealign.errors import DataError
from megatron_prealign.lexicon import read_lexicon
from megatron_prealign.text import documents as documents_module
from megatron_prealign.text import files as inputs_module
from megatron_prealign.text.tokenizer import Tokenizer

LEXICON = "the\tdie\tde\nthe\t这\tzh\nstatement\tAnweisung\tde\nis\tist\tde\t2.0\nof\tvon\tde\nobject\tОбъект\tru\n"


@pytest.fixture
def corpus(tmp_path: Path, documents: list[str]) -> list[Path]:
    """Two files of about 1,000 paragraphs, some of them empty."""
    paragraphs = [paragraph for text in documents[:30] for paragraph in text.split("\n\n")]
    paragraphs[3:3] = ["", "the", ""]
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, part in zip(paths, (paragraphs[::2], paragraphs[1::2]), strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part), encoding="utf-8")
    return paths


@pytest.fixture
def options(tmp_path: Path, corpus: list[Path], bpe_folder: Path) -> dict[str, Any]:
    """Options of a bake with switches."""
    (tmp_path / "lexicon.tsv").write_text(LEXICON, encoding="utf-8")
    return {
        "input_paths": tuple(corpus),
        "tokenizer_path": bpe_folder,
        "output_prefix": tmp_path / "out" / "en",
        "lexicon_paths": (tmp_path / "lexicon.tsv",),
        "codeswitch_ratio": 0.2,
        "append_eod": True,
    }


def run(options: dict[str, Any], **changes: Any) -> Manifest:
    """Bake without progress."""
    return bake(BakeOptions(**options | changes), show_progress=False)


def texts_of(paths: Sequence[Path]) -> list[str]:
    """Return the texts of JSON lines."""
    return [json.loads(line)["text"] for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the data files of a folder."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return {path.name: path.read_bytes() for path in files if path.suffix != ".json"}


def test_a_bake_without_the_compiled_module_says_that_it_is_slower(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(bake_module, "compiled", None)
    bake(BakeOptions(**options), show_progress=False, log=lines.append)
    assert any("is not compiled, or" in line and "gcc python3-dev" in line for line in lines)


def test_a_lexicon_in_another_script_than_its_source_language_is_noticed(options: dict[str, Any]) -> None:
    options["lexicon_paths"][0].write_text("銀行\tBank\tde\n家\tHaus\tde\nthe\tdie\tde\n", encoding="utf-8")
    lines: list[str] = []
    bake(BakeOptions(**options), show_progress=False, log=lines.append)
    assert any("2 of 3 source words" in line and "--source-language en" in line for line in lines)
    lines.clear()
    bake(BakeOptions(**options, source_language="ja", overwrite=True), show_progress=False, log=lines.append)
    assert not any("another script" in line for line in lines)


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_ratio_zero_writes_megatrons_bytes(
    tmp_path: Path, options: dict[str, Any], corpus: list[Path], request: pytest.FixtureRequest, kind: str
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    for append_eod in (False, True):
        prefix = tmp_path / f"ours-{append_eod}"
        manifest = run(
            options, tokenizer_path=tokenizer.path, codeswitch_ratio=0.0, append_eod=append_eod, output_prefix=prefix
        )
        builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(tokenizer.vocab_size))
        for text in texts_of(corpus):
            ids = tokenizer.encode(text)
            if ids and append_eod:
                ids.append(tokenizer.eod_id)
            builder.add_document(torch.tensor(ids, dtype=torch.int64), [len(ids)] if ids else [])
        builder.finalize(str(tmp_path / "theirs.idx"))
        for suffix in (".bin", ".idx"):
            assert (
                Path(f"{prefix}_text_document{suffix}").read_bytes() == Path(tmp_path / f"theirs{suffix}").read_bytes()
            )
        assert not manifest.has_switches and not Path(f"{prefix}_text_document.switch.bin").exists()
        assert manifest.content["counts"]["documents"] - manifest.content["counts"]["sequences"] == 2
        assert verify(f"{prefix}_text_document", tokenizer) == []


def test_switched_documents_are_those_of_the_code_switch(
    options: dict[str, Any], corpus: list[Path], bpe: Tokenizer
) -> None:
    manifest = run(options)
    prefix = str(options["output_prefix"]) + "_text_document"
    tokens, switches = IndexedDataset(prefix), IndexedDataset(f"{prefix}.switch")
    assert len(tokens) == len(switches)
    table = compile_lexicon(read_lexicon(options["lexicon_paths"], "en"), bpe)
    total = 0
    for i, text in enumerate(text for text in texts_of(corpus) if text):
        ids = np.array([*bpe.encode(text), bpe.eod_id])
        expected = codeswitch(ids, np.array([0, len(ids)]), table, 0.2, seed=1)
        assert tokens[i].tolist() == expected.tokens.tolist()
        assert switches[i].reshape(-1, 4).tolist() == expected.records.tolist()
        total += len(expected.records)
    counts = manifest.content["counts"]
    assert counts["switched"] == total == sum(counts["by_language"].values()) > 500
    assert counts["tokens"] == sum(len(sequence) for sequence in tokens)
    assert counts["words"] > counts["covered"] > counts["switched"]
    assert set(counts["by_language"]) == {"de", "ru", "zh"}
    assert verify(prefix, bpe) == [] and check_manifest(prefix) == []


def test_bytes_do_not_depend_on_workers_pieces_or_batches(
    tmp_path: Path, options: dict[str, Any], corpus: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run(options, output_prefix=tmp_path / "one" / "en")
    monkeypatch.setattr(inputs_module, "_MIN_PIECE_BYTES", 20_000)
    two = run(options, output_prefix=tmp_path / "two" / "en", num_workers=2)
    monkeypatch.setattr(documents_module, "BATCH_LINES", 7)
    lines = b"".join(path.read_bytes() for path in corpus).splitlines(keepends=True)
    bounds = np.linspace(0, len(lines), 8).astype(int)
    (tmp_path / "seven").mkdir()
    for number in range(7):
        part = b"".join(lines[bounds[number] : bounds[number + 1]])
        suffix, data = [("", part), (".gz", gzip.compress(part)), (".zst", zstd.compress(part))][number % 3]
        (tmp_path / f"seven/part-{number + 8}.jsonl{suffix}").write_bytes(data)
    seven = run(options, output_prefix=tmp_path / "small" / "en", input_paths=(tmp_path / "seven",), num_workers=4)
    assert one.content == two.content == seven.content and one.content_hash == two.content_hash
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "small")
    assert len(contents(tmp_path / "one")) == 4
    assert run(options, output_prefix=tmp_path / "other" / "en", seed=2).content_hash != one.content_hash


def test_megatrons_own_dataset_opens_a_bake_with_switches(options: dict[str, Any], bpe: Tokenizer) -> None:
    run(options)
    prefix = str(options["output_prefix"]) + "_text_document"
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=64,
        blend=([prefix], None),
        split="1,0,0",
        path_to_cache=None,
        tokenizer=SimpleNamespace(vocab_size=2000, eod=bpe.eod_id, pad=-1, unique_identifiers={}),  # type: ignore[arg-type]
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    low_level = IndexedDataset(prefix)
    dataset = GPTDataset(low_level, prefix, np.arange(len(low_level), dtype=np.int32), 10, Split.train, config)
    stream = np.concatenate([low_level[int(i)] for i in dataset.document_index]).tolist()
    for i in range(10):
        start = 64 * int(dataset.shuffle_index[i])
        assert dataset[i]["tokens"].tolist() == stream[start : start + 64]
        assert dataset[i]["labels"].tolist() == stream[start + 1 : start + 65]
    records = IndexedDataset(f"{prefix}.switch")
    changed = sum(
        int((apply_switch_records(low_level[i], records[i].reshape(-1, 4), "input-only") != low_level[i]).sum())
        for i in range(len(low_level))
    )
    assert changed > 500


def test_every_problem_of_the_options_is_told_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "bad.tsv").write_text("no separator\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        run(
            options,
            input_paths=(tmp_path / "absent.jsonl", tmp_path / "bad.tsv"),
            tokenizer_path=tmp_path / "absent-tokenizer",
            lexicon_paths=(tmp_path / "bad.tsv",),
            codeswitch_ratio=1.5,
            num_workers=0,
        )
    text = str(caught.value)
    for part in ("absent.jsonl", "unknown kind", "absent-tokenizer", "bad.tsv", "1.5", "--workers 0"):
        assert part in text
    assert not options["output_prefix"].parent.exists()


def test_wrong_combinations_are_refused(
    tmp_path: Path, options: dict[str, Any], sentencepiece_without_bytes: Tokenizer
) -> None:
    with pytest.raises(DataError, match="needs a --lexicon"):
        run(options, lexicon_paths=())
    (tmp_path / "foreign.tsv").write_text("银行\tbank\ten\n", encoding="utf-8")
    foreign = {"lexicon_paths": (tmp_path / "foreign.tsv",), "tokenizer_path": sentencepiece_without_bytes.path}
    with pytest.raises(DataError, match="no entry can be used"):
        run(options, **foreign)
    definition = json.loads((options["tokenizer_path"] / "tokenizer.json").read_text(encoding="utf-8"))
    definition["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    with pytest.raises(DataError, match="no end-of-document token"):
        run(options, tokenizer_path=tmp_path / "tokenizer.json")
    assert not options["output_prefix"].parent.exists()


def test_a_bad_line_ends_the_bake_or_is_counted(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = options["output_prefix"].parent
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": }\n{"text": null}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:2: not JSON"):
        run(options, input_paths=(bad,))
    assert list(folder.iterdir()) == []
    paths = (*options["input_paths"], bad)
    for num_workers in (1, 2):
        with pytest.raises(DataError, match=r"bad\.jsonl:3: the value of 'text' is a NoneType"):
            run(options, input_paths=paths, num_workers=num_workers, overwrite=True)
        assert contents(folder) == {}
    with pytest.raises(DataError, match="pass --resume to continue"):
        run(options, input_paths=paths)
    resumed = run(options, input_paths=paths, resume=True, on_error="skip")
    assert resumed.content["counts"]["skipped"] == 2
    assert [example.split(": ")[0] for example in resumed.provenance["skipped_examples"]] == [f"{bad}:2", f"{bad}:3"]
    bad.write_text('{"text": "fine"}\n', encoding="utf-8")
    clean = run(options, input_paths=paths, output_prefix=tmp_path / "clean" / "en")
    assert clean.content["files"] == resumed.content["files"]


def test_pieces_encoded_ahead_are_baked_from_that(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run(options)
    monkeypatch.setattr(inputs_module, "_MIN_PIECE_BYTES", 5_000)
    given: list[int] = []
    take_ahead = LocalWorkers._take_ahead

    def taken(workers: LocalWorkers) -> dict[int, Any]:
        wait(workers._ahead)  # every piece, however quick the lexicon is compiled
        ahead = take_ahead(workers)
        given.extend(number for number, encoded in ahead.items() if encoded)
        for path in options["input_paths"]:  # whoever reads them again gets nothing
            path.write_bytes(b" " * path.stat().st_size)
        return ahead

    monkeypatch.setattr(LocalWorkers, "_take_ahead", taken)
    both = run(options, output_prefix=options["output_prefix"].parent / "both", num_workers=2)
    assert len(given) > 2 and both.content["files"] == alone.content["files"]


def test_a_bake_is_resumed_with_its_own_settings_only(options: dict[str, Any], corpus: list[Path]) -> None:
    good = corpus[1].read_bytes()
    corpus[1].write_bytes(good + b"bad\n")
    with pytest.raises(DataError, match="not JSON"):
        run(options)
    with pytest.raises(DataError, match=r"\(seed changed\)"):
        run(options, seed=2, resume=True)
    with pytest.raises(DataError, match="--resume and --overwrite"):
        run(options, resume=True, overwrite=True)
    corpus[1].write_bytes(good)
    with pytest.raises(DataError, match=r"\(the input files changed\)"):
        run(options, resume=True)
    run(options, overwrite=True)
    assert [path.suffix for path in sorted(options["output_prefix"].parent.iterdir())].count(".bin") == 2


def test_resuming_a_bake_that_has_ended_does_nothing(options: dict[str, Any], corpus: list[Path]) -> None:
    first = run(options)
    before = contents(options["output_prefix"].parent)
    # As a kill leaves it, after the last file is published.
    finished = BakeOptions(**options).work_folder
    done = finished.with_name(f"{finished.name}-done")
    done.mkdir()
    assert run(options, resume=True, num_workers=2) == first
    assert not done.exists()
    with pytest.raises(DataError, match=r"other settings \(seed changed\).* --overwrite"):
        run(options, resume=True, seed=2)
    good = corpus[1].read_bytes()
    corpus[1].write_bytes(good + b"\n")
    with pytest.raises(DataError, match=r"\(the input files changed\)"):
        run(options, resume=True)
    assert contents(options["output_prefix"].parent) == before
    corpus[1].write_bytes(good)
    os.truncate(f"{options['output_prefix']}_text_document.switch.bin", 100)
    with pytest.raises(DataError, match=r"switch\.bin: 100 bytes(.|\n)*--overwrite"):
        run(options, resume=True)


@pytest.mark.parametrize(("text", "message"), [("", "no document"), ('{"text": ""}\n', "1 documents, all empty")])
def test_a_corpus_without_text_is_an_error(tmp_path: Path, options: dict[str, Any], text: str, message: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        run(options, input_paths=(path,))
    assert list(options["output_prefix"].parent.iterdir()) == []


def test_nothing_is_overwritten_unasked(options: dict[str, Any]) -> None:
    run(options)
    prefix = str(options["output_prefix"]) + "_text_document"
    before = contents(options["output_prefix"].parent)
    with pytest.raises(DataError, match="--overwrite"):
        run(options, codeswitch_ratio=0.0)
    assert contents(options["output_prefix"].parent) == before
    run(options, codeswitch_ratio=0.0, overwrite=True)
    assert not Path(f"{prefix}.switch.bin").exists() and check_manifest(prefix) == []


def test_an_interrupted_overwrite_leaves_no_manifest_of_mixed_files(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(options)
    replace, calls = os.replace, []

    def fail_at_the_second_file(source: str, target: str) -> None:
        nonlocal calls
        calls += [target] if str(target).startswith(str(options["output_prefix"])) else []
        if len(calls) == 2:
            raise OSError("no space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_second_file)
    with pytest.raises(OSError, match="no space"):
        run(options, seed=2, overwrite=True)
    assert "no such manifest" in check_manifest(str(options["output_prefix"]) + "_text_document")[0]


def test_a_dead_worker_ends_the_bake(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    bake_all = LocalWorkers.bake
    others = set(multiprocessing.active_children())  # checkpoint tests leave megatron-core's manager behind

    def kill_a_worker(workers: LocalWorkers, job: Job, on_finished: Callable[[int], None]) -> None:
        def then_kill(number: int) -> None:
            worker, *_ = set(multiprocessing.active_children()) - others
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)

        bake_all(workers, job, then_kill)

    monkeypatch.setattr(inputs_module, "_MIN_PIECE_BYTES", 5_000)
    monkeypatch.setattr(LocalWorkers, "bake", kill_a_worker)
    with pytest.raises(DataError, match="a worker process died"):
        run(options, num_workers=2)
    assert contents(options["output_prefix"].parent) == {}
    assert set(multiprocessing.active_children()) == others


def test_names_of_input_that_are_not_utf8_reach_the_manifest(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = tmp_path / "latin"
    folder.mkdir()
    path = folder / os.fsdecode("café.jsonl".encode("latin-1"))
    path.write_bytes(b'{"text": "the statement"}\nbad\n')
    first = run(options, input_paths=(folder,), on_error="skip", command=f"bake --input {path}")
    assert run(options, input_paths=(folder,), on_error="skip", resume=True) == first
    written = Path(f"{options['output_prefix']}_text_document.json").read_bytes()
    provenance = json.loads(written.decode())["provenance"]
    assert [Path(source["path"]) for source in provenance["sources"]] == [path]
    assert os.fsencode(provenance["skipped_examples"][0]).startswith(os.fsencode(path) + b":2: not JSON")


def test_the_manifest_knows_what_it_is_of(options: dict[str, Any], bpe: Tokenizer) -> None:
    run(options, command="the command")
    manifest = read_manifest(str(options["output_prefix"]) + "_text_document")
    lexicon = read_lexicon(options["lexicon_paths"], "en")
    expected = {"tokenizer_fingerprint": bpe.fingerprint, "vocab_size": 2000, "eod_id": 0, "seed": 1, "dtype": "uint16"}
    expected |= {"lexicon_fingerprint": lexicon.fingerprint, "lexicon_entries": 5, "codeswitch_ratio": 0.2}
    assert expected.items() <= manifest.content.items()
    assert manifest.provenance["command"] == "the command"
    assert [source["path"] for source in manifest.provenance["sources"]] == [str(p) for p in options["input_paths"]]
