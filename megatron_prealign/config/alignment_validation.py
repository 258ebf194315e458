"""Checks of the alignment section, and what a configuration aligns and measures."""

import os
from collections.abc import Iterator

from megatron_prealign.config.alignment import tap_weights
from megatron_prealign.config.constraints import Problem
from megatron_prealign.config.root import Config
from megatron_prealign.errors import ConfigError


def aligns_words(config: Config) -> bool:
    """Return whether words have a loss: in stage 1 or maintained in stage 2, unless only sentences are named."""
    alignment = config.alignment
    if alignment.sentence_paths and alignment.sentence_weight > 0 and not alignment.lexicon_paths:
        return False
    return config.training.stage == "align_init" or (alignment.maintain_interval > 0 and alignment.maintain_weight > 0)


def aligns_sentences(config: Config) -> bool:
    """Return whether sentences have a loss: if they are named, in stage 1 or maintained in stage 2."""
    alignment = config.alignment
    if not alignment.sentence_paths or alignment.sentence_weight == 0:
        return False
    return config.training.stage == "align_init" or alignment.maintain_interval > 0


def has_alignment_loss(config: Config) -> bool:
    """Return whether the run has an alignment loss, of words or of sentences."""
    return aligns_words(config) or aligns_sentences(config)


def measures_retrieval(config: Config) -> bool:
    """Return whether validations measure word retrieval: in any stage that names a lexicon."""
    alignment = config.alignment
    named = alignment.lexicon_paths or alignment.held_out_lexicon_paths
    return bool(named) and alignment.eval_word_pairs > 0 and config.training.eval_interval > 0


def reads_items(config: Config) -> bool:
    """Return whether the model encodes words or sentences outside running text in this run."""
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
                yield Problem(f"--alignment.{name} {path}: no such file: check the path")
    if config.training.stage == "align_init":
        yield from _align_init(config)
    elif alignment.maintain_interval > config.training.train_steps > 0:
        yield Problem(
            f"--alignment.maintain_interval {alignment.maintain_interval} is longer than --training.train_steps "
            f"{config.training.train_steps}: only the first step would align words; lower it, or set it to 0"
        )


def _lexicons_given(config: Config) -> Iterator[Problem]:
    if config.alignment.lexicon_paths:
        return
    cause = f"--alignment.maintain_interval {config.alignment.maintain_interval}"
    if config.training.stage == "align_init":
        cause = "--training.stage align_init"
    yield Problem(f"{cause} needs --alignment.lexicon_paths: name at least one lexicon")


def _taps(config: Config) -> Iterator[Problem]:
    model = config.model
    if model.num_layers < 1:
        return
    try:
        tap_weights(config.alignment.taps, model.num_layers, tied=not model.untie_embeddings_and_output_weights)
    except ConfigError as error:
        for message in error.problems:
            yield Problem(message, ("model.num_layers", "model.untie_embeddings_and_output_weights"))


def _rows(config: Config) -> Iterator[Problem]:
    alignment = config.alignment
    name = "alignment.word_row_length"
    if alignment.word_row_length < alignment.max_word_tokens:
        yield Problem(
            f"--{name} {alignment.word_row_length} is shorter than --alignment.max_word_tokens "
            f"{alignment.max_word_tokens}: a word must fit into a row; raise one or lower the other"
        )
    yield from _split_rows(config, name)


def _split_rows(config: Config, name: str) -> Iterator[Problem]:
    length: int = getattr(config.alignment, name.removeprefix("alignment."))
    tensor_parallel = config.parallel.tensor_model_parallel_size
    if config.parallel.sequence_parallel and tensor_parallel > 1 and length % tensor_parallel:
        yield Problem(
            f"--{name} {length} is not divisible by --parallel.tensor_model_parallel_size "
            f"{tensor_parallel}: sequence parallelism splits each row; change one"
        )


def _align_init(config: Config) -> Iterator[Problem]:
    alignment = config.alignment
    if alignment.alignment_weight == 0 and alignment.lm_weight == 0 and not aligns_sentences(config):
        yield Problem(
            "--alignment.alignment_weight and --alignment.lm_weight are both 0: nothing would be learned; raise one"
        )
    if alignment.lm_weight == 0 and config.guards.loss_spike != "ignore":
        yield Problem(
            f"--guards.loss_spike {config.guards.loss_spike} monitors the language-modelling loss, but "
            "--alignment.lm_weight is 0: raise it, or set loss_spike to ignore"
        )
    if alignment.patience > 0 and not alignment.held_out_lexicon_paths:
        yield Problem(
            f"--alignment.patience {alignment.patience} needs held-out retrieval, but "
            "--alignment.held_out_lexicon_paths names no lexicon: name one, or set patience to 0"
        )
    if alignment.patience > 0 and (alignment.eval_word_pairs == 0 or config.training.eval_interval == 0):
        yield Problem(
            f"--alignment.patience {alignment.patience} needs --alignment.eval_word_pairs and "
            "--training.eval_interval above 0: validations measure retrieval; raise them, or set patience to 0"
        )
