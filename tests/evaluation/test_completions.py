"""Scores of completions against one forward pass each, and where tokens join prompt and completion."""

import pytest
import torch

from megatron_prealign.evaluation.folder import ModelFolder, open_folder
from megatron_prealign.evaluation.scoring import CompletionScores, completion_windows, score_completions
from tests.evaluation.folders import make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_folder(make_folder(tmp_path_factory.mktemp("hf") / "tiny"))


def test_scores_are_sums_over_the_completion_alone(folder: ModelFolder) -> None:
    prompts = [("The value of the", [" object.", " class is not defined anywhere.", " x"]), ("Names", [" are", "!"])]
    for (prompt, completions), scores in zip(prompts, score_completions(folder, prompts), strict=True):
        given = [0, *folder.tokenizer.encode(prompt)]
        for completion, total, size in zip(completions, scores.log_probs, scores.num_tokens, strict=True):
            whole = [0, *folder.tokenizer.encode(prompt + completion)]
            assert whole[: len(given)] == given
            with torch.no_grad():
                log_probs = folder.model(torch.tensor([whole])).logits[0].log_softmax(-1)
            steps = range(len(given), len(whole))
            assert total == pytest.approx(sum(float(log_probs[step - 1, whole[step]]) for step in steps), abs=1e-4)
            assert size == len(steps)


def test_the_best_is_by_the_sum_or_by_the_mean_of_a_token() -> None:
    scores = CompletionScores(log_probs=(-4.0, -6.0, -6.0), num_tokens=(1, 3, 4))
    assert scores.best(normalised=False) == 0
    assert scores.best(normalised=True) == 2
    assert CompletionScores((-1.0, -1.0), (1, 1)).best(normalised=True) == 0


def test_what_a_token_joins_to_the_prompt_is_scored_for_all(folder: ModelFolder) -> None:
    tokenizer = folder.tokenizer
    # "obje" + "ct" is one token or another cut than the prompt alone; the other completion keeps the prompt's.
    alone, joined = tokenizer.encode("the obje"), tokenizer.encode("the object")
    shared = next(index for index, pair in enumerate(zip(alone, joined, strict=False)) if pair[0] != pair[1])
    windows = completion_windows(folder, "the obje", ["ct", " ct"])
    assert [len(one.tokens) - one.num_scored for one in windows] == [1 + shared] * 2
    assert windows[0].tokens == [0, *joined]
