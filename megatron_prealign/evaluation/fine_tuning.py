"""Fine-tuning a causal language model with a classification head on its last token, by Hugging Face's Trainer.

Shape legend: B examples of a batch, S positions, N examples.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.labelled import Example
from megatron_prealign.text.frame import document_frame
from megatron_prealign.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Settings of one fine-tuning."""

    epochs: int
    batch_size: int
    learning_rate: float
    max_tokens: int


def separator_of(tokenizer: Tokenizer) -> int:
    """Return the token that separates the two texts of a pair, and pads; no text is encoded to it.

    Raises:
        DataError: the tokenizer has no special token.
    """
    found = tokenizer.eod_id if tokenizer.eod_id is not None else min(tokenizer.special_ids, default=None)
    if found is None:
        raise DataError(f"{tokenizer.path}: the tokenizer has no special token; classification needs one between texts")
    return found


def encode_examples(tokenizer: Tokenizer, examples: Sequence[Example], max_tokens: int) -> list[list[int]]:
    """Return the tokens of each example, begun as a document in training, cut to `max_tokens`.

    In a pair, the first text gets the tokens that the second leaves free, but at least half of them.
    """
    separator = separator_of(tokenizer)
    begin = document_frame(tokenizer).context or [separator]
    firsts = tokenizer.encode_batch([example.text for example in examples])
    pairs = tokenizer.encode_batch([example.pair or "" for example in examples])
    encoded = []
    for first, pair, example in zip(firsts, pairs, examples, strict=True):
        if example.pair is None:
            encoded.append([*begin, *first][:max_tokens])
            continue
        room = max_tokens - 2
        kept = first[: max(room - len(pair), room - room // 2)]
        encoded.append([*begin, *kept, separator, *pair[: room - len(kept)]])
    return encoded


def collate(items: Sequence[dict[str, Any]], padding: int) -> dict[str, Tensor]:
    """Return input_ids [B, S] padded at the end, attention_mask [B, S] and labels [B]; all int64."""
    length = max(len(item["input_ids"]) for item in items)
    ids = torch.full((len(items), length), padding, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(items):
        ids[row, : len(item["input_ids"])] = torch.tensor(item["input_ids"])
        mask[row, : len(item["input_ids"])] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([item["labels"] for item in items])}


class _ReportSteps(TrainerCallback):
    """Report the steps done."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._progress(state.global_step, state.max_steps)


def fine_tune_and_test(
    folder: ModelFolder,
    train: Sequence[Example],
    test: Mapping[str, Sequence[Example]],
    tuning: Tuning,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[bool]]:
    """Fine-tune a copy of a folder's model with a new head; return whether it classifies each test example right.

    Args:
        folder: model and tokenizer; not changed.
        train: training examples.
        test: test examples by language, with labels of the training.
        tuning: settings.
        seed: seed of the head's weights and the order of examples.
        progress: called with the steps done and their number.
    """
    numbers = {label: number for number, label in enumerate(sorted({example.label for example in train}))}
    padding = separator_of(folder.tokenizer)
    set_seed(seed)
    model = _with_head(folder, numbers, padding)

    def dataset(examples: Sequence[Example]) -> Any:
        tokens = encode_examples(folder.tokenizer, examples, tuning.max_tokens)
        return [
            {"input_ids": ids, "labels": numbers[example.label]} for ids, example in zip(tokens, examples, strict=True)
        ]

    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(
            model=model,
            args=_arguments(output, tuning, seed, is_cpu=folder.device == "cpu"),
            train_dataset=dataset(train),
            data_collator=lambda items: collate(items, padding),
            callbacks=[_ReportSteps(progress)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return {language: _right(trainer, dataset(examples)) for language, examples in test.items()}


def _with_head(folder: ModelFolder, numbers: dict[str, int], padding: int) -> Any:
    """Return a classifier with the transformer layers of a folder's model."""
    names = {"label2id": numbers, "id2label": {number: label for label, number in numbers.items()}}
    config = type(folder.model.config).from_dict(folder.model.config.to_dict() | names | {"pad_token_id": padding})
    classes: Any = AutoModelForSequenceClassification
    model = classes.from_config(config, dtype=torch.float32)
    model.base_model.load_state_dict(folder.model.base_model.state_dict())
    return model


def _arguments(output: str, tuning: Tuning, seed: int, is_cpu: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=output,
        num_train_epochs=tuning.epochs,
        per_device_train_batch_size=tuning.batch_size,
        per_device_eval_batch_size=4 * tuning.batch_size,
        learning_rate=tuning.learning_rate,
        warmup_steps=0.1,
        seed=seed,
        use_cpu=is_cpu,
        dataloader_pin_memory=not is_cpu,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def _right(trainer: Trainer, dataset: Any) -> list[bool]:
    predicted: Any = trainer.predict(dataset)
    right: list[bool] = (predicted.predictions.argmax(axis=1) == predicted.label_ids).tolist()
    return right
