"""Checks of the alignment section against the rest of the configuration."""

import os
from collections.abc import Iterator

from megatron_prealign.config.constraints import Problem
from megatron_prealign.config.root import Config
from megatron_prealign.config.taps import tap_weights
from megatron_prealign.errors import ConfigError


def aligns_words(config: Config) -> bool:
    """Tell whether words have a loss: in stage 1, or stage 2 that maintains it, unless sentences alone are named."""
    alignment = config.alignment
    if alignment.sentence_paths and alignment.sentence_weight > 0 and not alignment.lexicon_paths:
        return False
    return config.training.stage == "align_init" or (alignment.maintain_interval > 0 and alignment.maintain_weight > 0)


def aligns_sentences(config: Config) -> bool:
    """Tell whether sentences have a loss: where they are named, in stage 1, or stage 2 that maintains it."""
    alignment = config.alignment
    if not alignment.sentence_paths or alignment.sentence_weight == 0:
        return False
    return config.training.stage == "align_init" or alignment.maintain_interval > 0


def has_alignment_loss(config: Config) -> bool:
    """Tell whether the run has an alignment loss, of words or of sentences."""
    return aligns_words(config) or aligns_sentences(config)


def measures_retrieval(config: Config) -> bool:
    """Tell whether validations measure the retrieval of words: in any stage, where a lexicon is named."""
    alignment = config.alignment
    named = alignment.lexicon_paths or alignment.held_out_lexicon_paths
    return bool(named) and alignment.eval_word_pairs > 0 and config.training.eval_interval > 0


def reads_items(config: Config) -> bool:
    """Tell whether the model reads words or sentences by themselves in this run."""
    return has_alignment_loss(config) or measures_retrieval(config)


def check_alignment(config: Config) -> Iterator[Problem]:
    """Yield what is wrong with the alignment section."""
    if aligns_words(config):
        yield from _lexicons_given(config)
    if has_alignment_loss(config):
        yield from _taps(config)
    if aligns_words(config) or measures_retrieval(config):
        yield from _rows(config)
    if aligns_sentences(config):
        yield from _split_rows(config, "alignment.max_sentence_tokens")
    alignment = config.alignment
    for name in ("lexicon_paths", "held_out_lexicon_paths", "sentence_paths"):
        for path in getattr(alignment, name):
            if not os.path.isfile(path):
                yield Problem(f"--alignment.{name} {path}: no such file: check the path", (f"alignment.{name}",))
    if config.training.stage == "align_init":
        yield from _align_init(config)
    elif alignment.maintain_interval > config.training.train_steps > 0:
        yield Problem(
            f"--alignment.maintain_interval {alignment.maintain_interval} is longer than --training.train_steps "
            f"{config.training.train_steps}: words would be aligned in the first step only; lower it, or set it to 0",
            ("alignment.maintain_interval", "training.train_steps"),
        )


def _lexicons_given(config: Config) -> Iterator[Problem]:
    if config.alignment.lexicon_paths:
        return
    if config.training.stage == "align_init":
        cause, field = "--training.stage align_init", "training.stage"
    else:
        cause = f"--alignment.maintain_interval {config.alignment.maintain_interval}"
        field = "alignment.maintain_interval"
    yield Problem(
        f"{cause} needs --alignment.lexicon_paths: name at least one lexicon", ("alignment.lexicon_paths", field)
    )


def _taps(config: Config) -> Iterator[Problem]:
    model = config.model
    if model.num_layers < 1:
        return
    try:
        tap_weights(config.alignment.taps, model.num_layers, tied=not model.untie_embeddings_and_output_weights)
    except ConfigError as error:
        for message in error.problems:
            yield Problem(message, ("alignment.taps", "model.num_layers", "model.untie_embeddings_and_output_weights"))


def _rows(config: Config) -> Iterator[Problem]:
    alignment = config.alignment
    name = "alignment.word_row_length"
    if alignment.word_row_length < alignment.max_word_tokens:
        yield Problem(
            f"--{name} {alignment.word_row_length} is shorter than --alignment.max_word_tokens "
            f"{alignment.max_word_tokens}: a word must fit into a row; raise one or lower the other",
            (name, "alignment.max_word_tokens"),
        )
    yield from _split_rows(config, name)


def _split_rows(config: Config, name: str) -> Iterator[Problem]:
    length: int = getattr(config.alignment, name.removeprefix("alignment."))
    tensor_parallel = config.parallel.tensor_model_parallel_size
    if config.parallel.sequence_parallel and tensor_parallel > 1 and length % tensor_parallel:
        yield Problem(
            f"--{name} {length} is not divisible by --parallel.tensor_model_parallel_size "
            f"{tensor_parallel}: sequence parallelism splits each row",
            (name, "parallel.tensor_model_parallel_size"),
        )


def _align_init(config: Config) -> Iterator[Problem]:
    alignment = config.alignment
    if alignment.alignment_weight == 0 and alignment.lm_weight == 0 and not aligns_sentences(config):
        yield Problem(
            "--alignment.alignment_weight and --alignment.lm_weight are both 0: nothing would be learned; raise one",
            ("alignment.alignment_weight", "alignment.lm_weight"),
        )
    if alignment.lm_weight == 0 and config.guards.loss_spike != "ignore":
        yield Problem(
            f"--guards.loss_spike {config.guards.loss_spike} watches the language-modelling loss, but "
            "--alignment.lm_weight is 0: raise it, or set loss_spike to ignore",
            ("guards.loss_spike", "alignment.lm_weight"),
        )
    if alignment.patience > 0 and not alignment.held_out_lexicon_paths:
        yield Problem(
            f"--alignment.patience {alignment.patience} waits for held-out retrieval, but "
            "--alignment.held_out_lexicon_paths names no lexicon: name one, or set patience 0",
            ("alignment.patience", "alignment.held_out_lexicon_paths"),
        )
    if alignment.patience > 0 and (alignment.eval_word_pairs == 0 or config.training.eval_interval == 0):
        yield Problem(
            f"--alignment.patience {alignment.patience} needs --alignment.eval_word_pairs and "
            "--training.eval_interval above 0: retrieval is measured at validations",
            ("alignment.patience", "alignment.eval_word_pairs", "training.eval_interval"),
        )
