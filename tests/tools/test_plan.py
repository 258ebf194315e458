"""tools/plan.py: what it prints, and what it refuses."""

from pathlib import Path

import pytest

from tools.plan import main

RUN = "--training.precision bf16 --training.global_batch_size 1024 --data.seq_length 8192 --training.micro_batch_size 1"
MODEL = f"--model.preset llama-8b {RUN}"


def test_a_plan_shows_the_own_layout_and_better_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"--gpu h100 --gpus 64 --price 2 --layouts 3 {MODEL}".split()) == 0
    printed = capsys.readouterr().out
    assert "does NOT fit in 74 GiB" in printed and "Cost " in printed and "The bake" not in printed
    assert "A checkpoint       112.4 GB, 22.5 s to write" in printed
    table = printed[printed.index("Layouts that fit") :]
    assert sum(line.startswith("│") for line in table.splitlines()) == 3
    assert "layouts fit; words and sentences" in table


@pytest.mark.parametrize(
    ("options", "line"),
    [
        # 1,000 steps x 1,024 x 8,192 tokens x 4 bytes = 33.55 GB; / (5 MB/s x 64 cores) = 104.9 s
        ("--bake-cores 64 --bake-mb 5", "0.0291 hours on 64 cores: 33.55 GB of text, 5 MB a second and core"),
        (
            "--bake-cores 10 --bake-mb 2.5 --corpus-gb 900",
            "10 hours on 10 cores: 900 GB of text, 2.5 MB a second and core",
        ),
    ],
)
def test_the_hours_of_a_bake(options: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"--gpu h100 --gpus 64 {MODEL} --training.train_steps 1000 {options}".split()) == 0
    assert f"The bake           {line}" in capsys.readouterr().out


def test_a_layout_that_does_not_run_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    parallel = "--parallel.tensor_model_parallel_size 3"
    assert main(f"--gpu h100 --gpus 64 {MODEL} {parallel}".split()) == 0
    printed = capsys.readouterr().out
    assert "own layout does not run on these GPUs" in printed and "not divisible by" in printed


def test_nothing_that_fits_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"--gpu a100-40 --gpus 1 {MODEL}".split()) == 1
    printed = capsys.readouterr().out
    assert "layouts fits in 34 GiB; the smallest needs " in printed and "Layouts that fit" not in printed


def test_a_batch_that_no_layout_splits_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"--gpu h100 --gpus 7 {MODEL}".split()) == 1
    assert "No layout runs: no data-parallel size of 7 GPUs divides" in capsys.readouterr().out


def test_speeds_of_other_precisions_are_not_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"--gpu h100 --gpus 64 {MODEL} --training.precision fp32".split()) == 0
    assert "Speeds are those of bf16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"--gpu h100 --gpus 8 {RUN}", "--model.vocab_size is not given"),
        (f"--gpu h100 --gpus 8 --model.layers 3 {RUN}", "model.layers"),
        (f"--gpu h100 --gpus 8 --config missing.yaml {RUN}", "missing.yaml"),
    ],
)
def test_what_is_wrong_is_named(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["--gpu h100", "--gpu h100 --gpus 0", "--gpu v100 --gpus 8", "--gpus 8"])
def test_options_have_values(arguments: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments.split())


def test_files_that_are_still_to_be_made_do_not_matter(bpe_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = "--training.stage align_init --alignment.lexicon_paths a.tsv --alignment.held_out_lexicon_paths b.tsv"
    options = f"--gpu h100 --gpus 1 {stage} --data.tokenizer_path"
    assert main(f"{options} {bpe_folder}".split()) == 0
    assert "It fits in 74 GiB" in capsys.readouterr().out
    assert main(f"{options} {bpe_folder}/none".split()) == 2
    assert "--model.vocab_size is not given, and no tokenizer is at" in capsys.readouterr().err
