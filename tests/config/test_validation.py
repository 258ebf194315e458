"""Every rejection is triggered by a row of one table; nothing else is rejected with it."""

import ast
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import pytest

from megatron_prealign.config import Config, config_from_dict, find_problems

Overrides = Mapping[str, object]


class Row(typing.NamedTuple):
    """Fields that differ from a configuration without problems, and the beginning of the one problem they make."""

    overrides: Overrides
    expected: str
    world_size: int | None = None


TENSOR, PIPELINE = "parallel.tensor_model_parallel_size", "parallel.pipeline_model_parallel_size"
VIRTUAL = "parallel.virtual_pipeline_model_parallel_size"
CONTEXT, SHARDED = "parallel.context_parallel_size", "parallel.use_distributed_optimizer"
OVERLAP_GRADS, OVERLAP_PARAMS = "parallel.overlap_grad_reduce", "parallel.overlap_param_gather"
RAMPUP, RECOMPUTED = "training.rampup_batch_size", "training.recompute_num_layers"
NEOX = {"model.architecture": "gpt_neox", "model.num_query_groups": None}
FP8 = {"training.fp8": "hybrid", "training.precision": "bf16"}
ALIGN = {"training.stage": "align_init", "alignment.lexicon_paths": ["en-de.tsv"]}
SENTENCES = {"training.stage": "align_init", "alignment.sentence_paths": ["en-de.tsv"]}
KEPT = {"alignment.maintain_interval": 5, "alignment.lexicon_paths": ["en-de.tsv"]}
INTERLEAVED, ENGLISH = {PIPELINE: 2, VIRTUAL: 2}, {"prefix": "en_text_document"}
ONLINE = {"data.codeswitch": "online", "data.codeswitch_lexicon_paths": ["en-de.tsv"]}

ROWS = [
    Row({"model.hidden_size": 130}, "--model.hidden_size 130 is not divisible by --model.num_attention_heads 4: every"),
    Row({"model.num_query_groups": 3}, "--model.num_attention_heads 4 is not divisible by --model.num_query_groups 3:"),
    Row(
        {"model.architecture": "qwen2", "model.kv_channels": 64},
        "--model.kv_channels 64 with --model.architecture qwen2: Qwen2's heads are hidden_size / num_attention_heads",
    ),
    Row(
        {"model.architecture": "gpt_neox", "model.num_query_groups": 2},
        "--model.num_query_groups 2 with --model.architecture gpt_neox: GPT-NeoX has no grouped-query attention; set",
    ),
    Row({"model.rotary_percent": 0.5}, "--model.rotary_percent 0.5 with --model.architecture llama: Llama rotates"),
    Row({**NEOX, "model.rotary_percent": 0.1}, "--model.rotary_percent 0.1 rotates 3 dimensions of each head, which"),
    Row({**NEOX, "model.rotary_percent": 0.01}, "--model.rotary_percent 0.01 rotates 0 dimensions of each head, which"),
    Row({**NEOX, "model.rope_scaling": "yarn"}, "--model.rope_scaling yarn with --model.architecture gpt_neox:"),
    Row(
        {"model.rope_scaling": "llama3", "model.original_max_position_embeddings": 4096},
        "--model.original_max_position_embeddings 4096 with --model.rope_scaling llama3: megatron-core always",
    ),
    Row({"model.no_rope_freq": 4}, "--model.no_rope_freq 4 with --model.architecture llama: all layers of Llama"),
    Row(
        {"model.transformer_impl": "transformer_engine", "training.device": "cpu"},
        "--model.transformer_impl transformer_engine needs a GPU, but --training.device is cpu: set one to auto",
    ),
    Row({TENSOR: 8}, f"--model.num_attention_heads 4 is not divisible by --{TENSOR} 8: each rank holds an equal share"),
    Row(
        {
            TENSOR: 4,
            "model.num_attention_heads": 12,
            "model.num_query_groups": 6,
            "model.hidden_size": 96,
            "model.ffn_hidden_size": 512,
        },
        f"--model.num_query_groups 6 is not divisible by --{TENSOR} 4: each rank holds an equal share",
    ),
    Row({TENSOR: 4, "model.ffn_hidden_size": 510}, f"--model.ffn_hidden_size 510 is not divisible by --{TENSOR} 4:"),
    Row(
        {TENSOR: 2, "model.make_vocab_size_divisible_by": 5},
        f"the vocabulary padded to a multiple of 5 does not split over --{TENSOR} 2: set",
    ),
    Row(
        {TENSOR: 2, "model.make_vocab_size_divisible_by": 5, "model.vocab_size": 21},
        f"the vocabulary padded to a multiple of 5 does not split over --{TENSOR} 2: set",
    ),
    Row(
        {CONTEXT: 2, "data.seq_length": 102},
        f"--data.seq_length 102 is not divisible by 4, the pieces that --{CONTEXT} 2 cuts a sequence into",
    ),
    Row(
        {CONTEXT: 2, TENSOR: 2, "parallel.sequence_parallel": True, "data.seq_length": 100},
        f"--data.seq_length 100 is not divisible by 8, the pieces that --{CONTEXT} 2 cuts a sequence into",
    ),
    Row({**ALIGN, CONTEXT: 2}, f"--{CONTEXT} 2 splits sequences, but words are too short to be split: train and"),
    Row(
        {CONTEXT: 2, TENSOR: 2},
        "the world size 6 is not divisible by 4 = 2 tensor x 1 pipeline x 2 context parallel ranks: start a multiple",
        world_size=6,
    ),
    Row(
        {**ALIGN, "alignment.lm_weight": 0, OVERLAP_GRADS: True},
        f"--{OVERLAP_GRADS} waits for a gradient of every parameter, but with --alignment.lm_weight 0 some",
    ),
    Row(
        {"parallel.ddp_bucket_size": 9, OVERLAP_GRADS: False},
        f"--parallel.ddp_bucket_size needs --{OVERLAP_GRADS}, which is off",
    ),
    Row({OVERLAP_PARAMS: True}, f"--{OVERLAP_PARAMS} needs --{SHARDED}: turn that on, or leave this out"),
    Row({**ALIGN, OVERLAP_PARAMS: True, SHARDED: True}, f"--{OVERLAP_PARAMS} gathers a layer's parameters when"),
    Row(
        {OVERLAP_PARAMS: True, SHARDED: True, OVERLAP_GRADS: False},
        f"--{OVERLAP_PARAMS} needs --{OVERLAP_GRADS}: turn both on or off",
    ),
    Row({"optimizer.name": "muon", SHARDED: True}, "--optimizer.name muon orthogonalizes whole matrices, but"),
    Row({**FP8, "training.device": "cpu"}, "--training.fp8 hybrid needs Transformer Engine layers on a GPU, but"),
    Row({**FP8, "model.transformer_impl": "local"}, "--training.fp8 hybrid needs Transformer Engine layers on a GPU,"),
    Row({"training.fp8": "e4m3"}, "--training.fp8 e4m3 needs --training.precision bf16, but that is fp32: set"),
    Row({**FP8, "model.ffn_hidden_size": 504}, "--training.fp8 hybrid needs --model.ffn_hidden_size to be a multiple"),
    Row({**NEOX, "training.recompute": "mlp"}, "--training.recompute mlp never ends in megatron-core with the biases"),
    Row({RECOMPUTED: 2}, f"--{RECOMPUTED} 2 needs --training.recompute full, but that is none: set it to full, or"),
    Row({RECOMPUTED: 3, "training.recompute": "full"}, f"--{RECOMPUTED} 3 does not divide the 4 layers of a pipeline"),
    Row({RAMPUP: [0, 8, 100]}, f"--{RAMPUP} 0 8 100 must be a first size and an increment of at least 1, and"),
    Row({RAMPUP: [16, 8, 100]}, f"--{RAMPUP} does not reach --training.global_batch_size 8 from 16 in steps of 8:"),
    Row(
        {RAMPUP: [8, 8, 100], "training.global_batch_size": 32},
        f"--{RAMPUP} starts at 8 and grows by 8, which must be multiples of 16 = --training.micro_batch_size 8 x 2",
        world_size=2,
    ),
    Row(
        {**INTERLEAVED, RAMPUP: [8, 8, 100], "training.global_batch_size": 32},
        f"--{RAMPUP} starts at 8 and grows by 8, which must be multiples of 16 = --training.micro_batch_size 8 x 1",
        world_size=2,
    ),
    Row(
        {"checkpoint.init_optimizer": True},
        "--checkpoint.init_optimizer loads the optimizer of --checkpoint.init_from, which is not given: give it,",
    ),
    Row({VIRTUAL: 2}, f"--{VIRTUAL} 2 needs --{PIPELINE} of at least 2: set it to none"),
    Row({PIPELINE: 3}, "--model.num_layers 4 does not split into 3 equal chunks (pipeline ranks x virtual chunks):"),
    Row({PIPELINE: 2, VIRTUAL: 3}, "--model.num_layers 4 does not split into 6 equal chunks (pipeline ranks x virtual"),
    Row({"data.seq_length": 2048}, "--data.seq_length 2048 is longer than --model.max_position_embeddings 1024: lower"),
    Row(
        {**ALIGN, "alignment.word_row_length": 2000},
        "--alignment.word_row_length 2000 is longer than --model.max_position_embeddings 1024: lower one",
    ),
    Row(
        {**ALIGN, "alignment.max_word_tokens": 65},
        "--alignment.word_row_length 64 is shorter than --alignment.max_word_tokens 65: a word must fit into a row",
    ),
    Row(
        {**ALIGN, TENSOR: 2, "parallel.sequence_parallel": True, "alignment.word_row_length": 33},
        f"--alignment.word_row_length 33 is not divisible by --{TENSOR} 2: sequence parallelism splits each row",
    ),
    Row(
        {"training.stage": "align_init", "alignment.sentence_paths": ["gone.tsv"]},
        "--alignment.sentence_paths gone.tsv: no such file: check the path",
    ),
    Row(
        {**SENTENCES, "alignment.sentence_weight": 0},
        "--training.stage align_init needs --alignment.lexicon_paths: name",
    ),
    Row(
        {**SENTENCES, TENSOR: 2, "parallel.sequence_parallel": True, "alignment.max_sentence_tokens": 33},
        f"--alignment.max_sentence_tokens 33 is not divisible by --{TENSOR} 2: sequence parallelism splits each row",
    ),
    Row(
        {**SENTENCES, "alignment.max_sentence_tokens": 4096},
        "--alignment.max_sentence_tokens 4096 is longer than --model.max_position_embeddings 1024: lower one or raise",
    ),
    Row(
        {**SENTENCES, **INTERLEAVED},
        f"--alignment.num_sentence_microbatches 1 is not divisible by --{PIPELINE} 2: interleaved",
    ),
    Row({**SENTENCES, CONTEXT: 2}, f"--{CONTEXT} 2 splits sequences, but words are too short to be split: train and"),
    Row(
        {"alignment.maintain_interval": 5},
        "--alignment.maintain_interval 5 needs --alignment.lexicon_paths: name at least one lexicon",
    ),
    Row(
        {**KEPT, "training.train_steps": 4, "schedule.lr_warmup_steps": 0},
        "--alignment.maintain_interval 5 is longer than --training.train_steps 4: only the first step would",
    ),
    Row(
        {**KEPT, **INTERLEAVED}, f"--alignment.num_word_microbatches 1 is not divisible by --{PIPELINE} 2: interleaved"
    ),
    Row({**KEPT, CONTEXT: 2}, f"--{CONTEXT} 2 splits sequences, but words are too short to be split: train and"),
    Row(
        {**ALIGN, "alignment.held_out_lexicon_paths": ["gone.tsv"]},
        "--alignment.held_out_lexicon_paths gone.tsv: no such file: check the path",
    ),
    Row(
        {**ALIGN, "alignment.patience": 3},
        "--alignment.patience 3 needs held-out retrieval, but --alignment.held_out_lexicon_paths names no",
    ),
    Row(
        {
            **ALIGN,
            "alignment.patience": 3,
            "alignment.held_out_lexicon_paths": ["en-de.tsv"],
            "training.eval_interval": 0,
        },
        "--alignment.patience 3 needs --alignment.eval_word_pairs and --training.eval_interval above 0: validations",
    ),
    Row(
        {**ALIGN, "alignment.taps": "embeding"},
        "--alignment.taps: this model has no tap 'embeding'; did you mean embedding?",
    ),
    Row({"parallel.sequence_parallel": True}, f"--parallel.sequence_parallel needs --{TENSOR} of at least 2: raise it"),
    Row(
        {"parallel.sequence_parallel": True, TENSOR: 2, "data.seq_length": 101},
        f"--data.seq_length 101 is not divisible by --{TENSOR} 2: sequence parallelism splits each sequence",
    ),
    Row({"optimizer.min_lr": 1.0}, "--optimizer.min_lr 1.0 is above --optimizer.lr 0.0003: the rate must not rise at"),
    Row(
        {"schedule.lr_warmup_steps": 1000},
        "--schedule.lr_warmup_steps 1000 leaves no step of --training.train_steps 1000: shorten the warm-up",
    ),
    Row(
        {"schedule.lr_warmup_steps": 100, "schedule.lr_decay_steps": 100},
        "--schedule.lr_warmup_steps 100 leaves no step of --schedule.lr_decay_steps 100: shorten the warm-up",
    ),
    Row(
        {"schedule.lr_warmup_steps": 400, "schedule.lr_wsd_decay_steps": 601},
        "--schedule.lr_wsd_decay_steps 601 is longer than the 600 steps after the warm-up: shorten it",
    ),
    Row(
        {"training.global_batch_size": 12},
        "--training.global_batch_size 12 is not divisible by --training.micro_batch_size 8: a step is a whole number",
    ),
    Row(
        {**ALIGN, **INTERLEAVED, "alignment.num_word_microbatches": 3},
        f"--alignment.num_word_microbatches 3 is not divisible by --{PIPELINE} 2: interleaved pipelines run whole",
    ),
    Row(
        {TENSOR: 2, PIPELINE: 2},
        "the world size 6 is not divisible by 4 = 2 tensor x 2 pipeline parallel ranks: start a multiple of 4",
        world_size=6,
    ),
    Row(
        {"training.global_batch_size": 16},
        "--training.global_batch_size 16 is not divisible by 24 = --training.micro_batch_size 8 x 3 data-parallel",
        world_size=3,
    ),
    Row(
        {**INTERLEAVED, "training.global_batch_size": 24},
        "an interleaved pipeline of 2 ranks needs a multiple of 2 microbatches, got 3: change",
        world_size=2,
    ),
    Row({"data.tokenizer_path": ""}, "--data.tokenizer_path is not given: train one with prealign-train-tokenizer, or"),
    Row({"data.tokenizer_path": "gone"}, "--data.tokenizer_path gone: no such file: train one with"),
    Row({"data.blend": []}, "--data.blend names no dataset: give at least one, like '[{prefix: "),
    Row(
        {"data.codeswitch": "online"},
        "--data.codeswitch online needs --data.codeswitch_lexicon_paths: name at least one lexicon",
    ),
    Row(
        {"data.codeswitch": "online", "data.codeswitch_lexicon_paths": ["absent.tsv"]},
        "--data.codeswitch_lexicon_paths absent.tsv: no such file: check the path",
    ),
    Row(
        {**ONLINE, "data.codeswitch_ratios": [0.1, 1.5]},
        "--data.codeswitch_ratios [0.1, 1.5]: give at least one number, each in [0, 1]",
    ),
    Row(
        {**ONLINE, "data.codeswitch_language": "zh"},
        "--data.codeswitch_language zh: no dataset in --data.blend has this language: name one",
    ),
    Row({"data.blend": [ENGLISH, {"prefix": "zh"}]}, "--data.blend[1]: zh lacks .bin, .idx, .json: bake it with"),
    Row({"data.blend": [{"prefix": "bare_text_document"}]}, "--data.blend[0]: bare_text_document lacks .json: bake it"),
    Row({"data.blend": [{**ENGLISH, "weight": 0}]}, "--data.blend[0].weight must be above 0, got 0.0: change it, or"),
    Row({"data.blend": [{**ENGLISH, "tokens": -5}]}, "--data.blend[0].tokens must be above 0, got -5: change it"),
    Row({"data.blend": [{**ENGLISH, "max_epochs": 0}]}, "--data.blend[0].max_epochs must be above 0, got 0.0: change"),
    Row({"data.blend": [{"prefix": "zh_*"}]}, "--data.blend[0]: no dataset matches zh_*: check the path, which ends"),
    Row({"data.valid_blend": [{"prefix": ["en_*", "zh"]}]}, "--data.valid_blend[0]: zh lacks .bin, .idx, .json: bake"),
    Row({"data.reset_position_ids": True}, "--data.reset_position_ids without --data.reset_attention_mask: rotary"),
    Row({"data.split": "9,1"}, "--data.split '9,1' must be three shares, the first above 0, like 969,30,1 for train,"),
    Row({"data.split": "a,b,c"}, "--data.split 'a,b,c' must be three shares, the first above 0, like 969,30,1"),
    Row({"data.split": "0,1,1"}, "--data.split '0,1,1' must be three shares, the first above 0, like 969,30,1"),
    Row({"data.split": "1,nan,1"}, "--data.split '1,nan,1' must be three shares, the first above 0, like 969,30,1"),
    Row({"data.split": "1,0,0"}, "--data.split '1,0,0' leaves no documents to validate on: raise its second"),
    Row({"training.run_path": ""}, "--training.run_path is not given: name the folder of this run"),
    Row({"training.run_path": "en-de.tsv"}, "--training.run_path en-de.tsv is a file: name a folder"),
    Row({"checkpoint.init_from": "gone"}, "--checkpoint.init_from gone holds no checkpoint: name a run folder or a"),
    Row({"checkpoint.init_from": "empty"}, "--checkpoint.init_from empty holds no checkpoint: name a run folder or a"),
    Row({"training.stage": "align_init"}, "--training.stage align_init needs --alignment.lexicon_paths: name at least"),
    Row(
        {**ALIGN, "alignment.lexicon_paths": ["en-de.tsv", "gone.tsv"]},
        "--alignment.lexicon_paths gone.tsv: no such file: check the path",
    ),
    Row(
        {**ALIGN, "alignment.alignment_weight": 0, "alignment.lm_weight": 0},
        "--alignment.alignment_weight and --alignment.lm_weight are both 0: nothing would be learned; raise one",
    ),
    Row(
        {**ALIGN, "alignment.lm_weight": 0, "guards.loss_spike": "skip"},
        "--guards.loss_spike skip monitors the language-modelling loss, but --alignment.lm_weight is 0: raise it",
    ),
    Row({"logging.wandb_name": "mine"}, "--logging.wandb_name mine without --logging.wandb_project: nothing would be"),
    Row({"logging.mlflow_tracking_uri": "file:runs"}, "--logging.mlflow_tracking_uri file:runs without --logging.mlf"),
    Row({"logging.profile_steps": [5, 4]}, "--logging.profile_steps [5, 4] must be the first and the last step of the"),
    Row({"logging.profile_steps": [5]}, "--logging.profile_steps [5] must be the first and the last step of the trace"),
    Row(
        {"logging.profile_steps": [1, 2], "logging.profile_ranks": [0, 1]},
        "--logging.profile_ranks [1]: no such rank; ranks are from 0 to 0",
        world_size=1,
    ),
    Row({"logging.profile_nvtx": True}, "--logging.profile_nvtx marks the steps of --logging.profile_steps on cuda: g"),
]

ACCEPTED = [
    Row({"logging.profile_steps": [5, 1000], "logging.profile_ranks": [0, 1], "logging.profile_nvtx": True}, ""),
    Row({"alignment.maintain_interval": 5, "alignment.maintain_weight": 0}, ""),
    Row({"alignment.maintain_interval": 5, "alignment.sentence_paths": ["en-de.tsv"]}, ""),
    Row({}, "", world_size=1),
    Row({**ALIGN, "training.global_batch_size": 16}, "", world_size=2),
    Row({CONTEXT: 2, RAMPUP: [16, 8, 100], "training.global_batch_size": 32}, "", world_size=2),
    Row({OVERLAP_PARAMS: True, SHARDED: True}, ""),
    Row({**FP8, RECOMPUTED: 2, "training.recompute": "full", PIPELINE: 2}, ""),
    Row(
        {**INTERLEAVED, **ALIGN, "alignment.num_word_microbatches": 2, "training.global_batch_size": 16},
        "",
        world_size=2,
    ),
    Row(
        {TENSOR: 2, PIPELINE: 2, "parallel.sequence_parallel": True, "training.global_batch_size": 16}, "", world_size=8
    ),
    Row({TENSOR: 2, "model.make_vocab_size_divisible_by": 5, "model.vocab_size": 20}, ""),
    Row({TENSOR: 4, "model.num_query_groups": 2}, ""),
    Row({"data.split": "1,0,0", "training.eval_interval": 0}, ""),
    Row({"data.split": "1,0,0", "data.valid_blend": [ENGLISH]}, ""),
    Row({"data.reset_attention_mask": True, "data.reset_position_ids": True}, ""),
    Row({CONTEXT: 2, "data.reset_attention_mask": True}, ""),
    Row({"checkpoint.init_from": "stage1"}, ""),
    Row({"checkpoint.init_from": "gone", "training.run_path": "stage1"}, ""),  # a run that continues
    Row({"checkpoint.init_from": "stage1/checkpoints/step_0000100"}, ""),
    Row({"model.architecture": "gpt_neox", "model.num_query_groups": 4, "model.rotary_percent": 0.25}, ""),
    Row({"model.architecture": "smollm3", "model.rope_scaling": "yarn", "model.no_rope_freq": 4}, ""),
    Row({"schedule.lr_warmup_steps": 400, "schedule.lr_wsd_decay_steps": 600}, ""),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out the files that the rows name; what they call gone or zh is not there."""
    monkeypatch.chdir(tmp_path)
    data = [f"{name}_text_document.{kind}" for name in ("en", "bare") for kind in ("bin", "idx")]
    for name in [*data, "en_text_document.json", "tokenizer.json", "en-de.tsv"]:
        Path(name).touch()
    Path("empty").mkdir()
    (checkpoint := Path("stage1/checkpoints/step_0000100")).mkdir(parents=True)
    (checkpoint / "state.json").touch()


def configure(overrides: Overrides) -> Config:
    """Make a configuration of the overrides over one that has no problem."""
    values: dict[str, dict[str, object]] = {}
    fine = {"data.tokenizer_path": "tokenizer.json", "data.blend": [ENGLISH], "training.run_path": "run"}
    for name, value in {**fine, **overrides}.items():
        section, field = name.split(".")
        values.setdefault(section, {})[field] = value
    return config_from_dict(values)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.expected[:50])
def test_rejection(row: Row) -> None:
    problems = find_problems(configure(row.overrides), world_size=row.world_size)
    assert len(problems) == 1, problems
    assert problems[0].startswith(row.expected)


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: " ".join(row.overrides) or "defaults")
def test_acceptance(row: Row) -> None:
    assert find_problems(configure(row.overrides), world_size=row.world_size) == []


@pytest.mark.parametrize("module", ["validation", "layout_validation", "data_validation"])
def test_the_table_triggers_every_rejection(module: str) -> None:
    path = str(sys.modules[f"megatron_prealign.config.{module}"].__file__)
    rejections = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"
    ]
    executed: set[int] = set()

    def trace(frame: FrameType, event: str, _: object) -> typing.Any:
        if frame.f_code.co_filename != path:
            return None
        if event == "line":
            executed.add(frame.f_lineno)
        return trace

    for overrides, _, world_size in [*ROWS, Row({"model.num_layers": 0}, "")]:
        config = configure(overrides)
        previous = sys.gettrace()
        sys.settrace(trace)
        try:
            find_problems(config, world_size=world_size)
        finally:
            sys.settrace(previous)
    assert len(rejections) > 8
    assert [lines[0] for lines in rejections if executed.isdisjoint(lines)] == []
