"""The range of every number in the configuration."""

from collections.abc import Callable

Range = tuple[Callable[[float], bool], str]

_AT_LEAST_1: Range = (lambda value: value >= 1, "at least 1")
_NOT_NEGATIVE: Range = (lambda value: value >= 0, "at least 0")
_POSITIVE: Range = (lambda value: value > 0, "above 0")
_WEIGHT: Range = (lambda value: 0 <= value <= 1e6, "in [0, 1000000]")
_BELOW_1: Range = (lambda value: 0 <= value < 1, "in [0, 1)")

RANGES: dict[str, Range] = {
    "model.num_layers": _AT_LEAST_1,
    "model.hidden_size": _AT_LEAST_1,
    "model.num_attention_heads": _AT_LEAST_1,
    "model.num_query_groups": _AT_LEAST_1,
    "model.kv_channels": _AT_LEAST_1,
    "model.ffn_hidden_size": _AT_LEAST_1,
    "model.max_position_embeddings": _AT_LEAST_1,
    "model.vocab_size": _AT_LEAST_1,
    "model.make_vocab_size_divisible_by": (lambda value: 1 <= value <= 1 << 20, "in [1, 1048576]"),
    "model.rotary_base": _POSITIVE,
    "model.rotary_percent": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "model.norm_epsilon": _POSITIVE,
    "model.init_method_std": _POSITIVE,
    "model.hidden_dropout": _BELOW_1,
    "model.attention_dropout": _BELOW_1,
    "data.seq_length": _AT_LEAST_1,
    "data.codeswitch_seed": (lambda value: 0 <= value < 2**32, "in [0, 2^32)"),
    "parallel.tensor_model_parallel_size": _AT_LEAST_1,
    "parallel.pipeline_model_parallel_size": _AT_LEAST_1,
    "parallel.virtual_pipeline_model_parallel_size": (lambda value: value >= 2, "at least 2, or none"),
    "parallel.context_parallel_size": _AT_LEAST_1,
    "parallel.distributed_timeout_minutes": _POSITIVE,
    "optimizer.lr": _POSITIVE,
    "optimizer.min_lr": _NOT_NEGATIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.adam_beta1": _BELOW_1,
    "optimizer.adam_beta2": _BELOW_1,
    "optimizer.adam_eps": _POSITIVE,
    "optimizer.clip_grad": _NOT_NEGATIVE,
    "optimizer.initial_loss_scale": _AT_LEAST_1,
    "optimizer.loss_scale_window": _AT_LEAST_1,
    "schedule.lr_warmup_steps": _NOT_NEGATIVE,
    "schedule.lr_decay_steps": _AT_LEAST_1,
    "schedule.lr_wsd_decay_steps": _AT_LEAST_1,
    "alignment.alignment_weight": _WEIGHT,
    "alignment.lm_weight": _WEIGHT,
    "alignment.temperature": (lambda value: 1e-3 <= value <= 1e3, "in [0.001, 1000]"),
    "alignment.word_batch_size": (lambda value: value >= 2, "at least 2 (a lone entry has no negatives)"),
    "alignment.num_word_microbatches": _AT_LEAST_1,
    "alignment.max_word_tokens": _AT_LEAST_1,
    "alignment.num_hard_negatives": _NOT_NEGATIVE,
    "alignment.word_row_length": _AT_LEAST_1,
    "alignment.similarity_memory_mib": _AT_LEAST_1,
    "alignment.eval_word_pairs": _NOT_NEGATIVE,
    "alignment.patience": _NOT_NEGATIVE,
    "alignment.maintain_interval": _NOT_NEGATIVE,
    "alignment.maintain_weight": _WEIGHT,
    "training.train_steps": _AT_LEAST_1,
    "training.micro_batch_size": _AT_LEAST_1,
    "training.global_batch_size": _AT_LEAST_1,
    "training.seed": (lambda value: 0 <= value < 2**32, "in [0, 2^32)"),
    "training.exit_duration_minutes": _POSITIVE,
    "training.recompute_num_layers": _AT_LEAST_1,
    "training.eval_interval": _NOT_NEGATIVE,
    "training.eval_steps": _AT_LEAST_1,
    "checkpoint.save_interval": _AT_LEAST_1,
    "checkpoint.keep_last": (lambda value: value >= 2, "at least 2 (a save that is cut off must leave one)"),
    "checkpoint.keep_every": _NOT_NEGATIVE,
    "guards.max_skipped_steps": _AT_LEAST_1,
    "guards.spike_window": (lambda value: value >= 2, "at least 2 (one loss has no deviation)"),
    "guards.spike_deviations": _POSITIVE,
    "guards.max_rewinds": _AT_LEAST_1,
    "logging.log_interval": _AT_LEAST_1,
}
"""By "section.field": whether a value holds, and the words for it; none is never checked."""
