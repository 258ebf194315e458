"""Retrieval while training equals retrieval from the exported folder, under any layout; patience ends stage 1."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_prealign.checkpoint import folder
from megatron_prealign.lexicon import read_lexicon
from megatron_prealign.testing import run_distributed
from tests.workspace import MakeValues

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "single": (1, {}),
    "dp3": (3, {}),
    "tp2-sequence-parallel": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "pp2-interleaved": (2, {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}),
}
MODEL = {"untie_embeddings_and_output_weights": True}


def _alignment(workspace: Path, **fields: Any) -> dict[str, Any]:
    # Two of the held-out words have tokens that no trained word has.
    (workspace / "held_out.tsv").write_text(
        "houses\thäuser\tde\ncats\tkatzen\tde\nq\tñ\tde\nwatertree\twasserbaum\tde\n"
    )
    return {"held_out_lexicon_paths": [str(workspace / "held_out.tsv")], **fields}


def _measure(values: Any) -> dict[str, Any]:
    from megatron_prealign.testing.trainers import make_trainer

    trainer = make_trainer(values)
    trainer.train_step()
    assert trainer.word_validator is not None
    results = trainer.word_validator.run(trainer.chunks)
    trainer.save()
    return results


@pytest.fixture(scope="module")
def from_folder(workspace: Path, make_values: MakeValues, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Retrieval of the model after one step, measured on the Hugging Face folder."""
    from megatron_prealign.evaluation.folder import open_folder
    from megatron_prealign.evaluation.retrieval import measure_retrieval, token_ids_of
    from tools.convert_checkpoint import main as convert

    root = tmp_path_factory.mktemp("single")
    alignment = _alignment(workspace)
    values = make_values("align_init", root / "run", model=MODEL, alignment=alignment, training={"eval_interval": 1})
    run_distributed(_measure, 1, values)
    assert convert(["to-hf", "--checkpoint", str(root / "run"), "--output", str(root / "hf")]) == 0
    model = open_folder(root / "hf")
    trained, held_out = (
        read_lexicon([workspace / "lexicon.tsv"], "en"),
        read_lexicon([workspace / "held_out.tsv"], "en"),
    )
    known = token_ids_of(trained, model.tokenizer)
    return {
        "trained": measure_retrieval(model, trained),
        "held_out": measure_retrieval(model, held_out, known_tokens=known),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_exported_folder(
    layout: str, from_folder: dict[str, Any], workspace: Path, make_values: MakeValues, tmp_path: Path
) -> None:
    world_size, parallel = LAYOUTS[layout]
    values = make_values(
        "align_init",
        tmp_path / "run",
        model=MODEL,
        parallel=parallel,
        alignment=_alignment(workspace),
        training={"eval_interval": 1, "global_batch_size": 6 if layout == "dp3" else 4},
    )
    results = run_distributed(_measure, world_size, values)
    assert all(result == results[0] for result in results)
    if layout == "dp3":
        # Other batches make another model: what must hold is that its ranks share out all words.
        counts = {name: pairs["en-de"]["num_source_words"] for name, pairs in results[0].items()}
        assert counts == {name: pairs["en-de"]["num_source_words"] for name, pairs in from_folder.items()}
        return
    for name, pairs in from_folder.items():
        assert results[0][name].keys() == pairs.keys() == {"en-de"}
        # CSLS is left to evaluations: nobody watches it step by step.
        assert pairs["en-de"].keys() - results[0][name]["en-de"].keys() == {"csls_p_at_1"}
        for score, found in results[0][name]["en-de"].items():
            assert found == pytest.approx(pairs["en-de"][score], abs=1e-4), (name, score)
    held_out = from_folder["held_out"]["en-de"]
    assert 0 < held_out["num_known_source_words"] < held_out["num_source_words"]


def _train(values: Any) -> None:
    from megatron_prealign.testing.trainers import make_trainer

    make_trainer(values).train()


def test_patience_ends_the_stage_and_is_kept(workspace: Path, make_values: MakeValues, tmp_path: Path) -> None:
    run = tmp_path / "run"
    values = make_values(
        "align_init",
        run,
        optimizer={"lr": 1e-12, "min_lr": 0.0},
        alignment=_alignment(workspace, patience=2),
        training={"eval_interval": 1, "train_steps": 6},
        checkpoint={"save_interval": 100},
    )
    run_distributed(_train, 1, values)
    newest = folder.newest_checkpoint(run)
    assert newest is not None
    state = folder.read_state(newest)
    assert (state["step"], state["validations_since_best"]) == (3, 2)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    valid = [record for record in records if record["kind"] == "valid"]
    assert [record["step"] for record in valid] == [1, 2, 3]
    assert valid[0]["retrieval"]["held_out"]["en-de"]["p_at_1_known"]
    # Started again, it takes no further step.
    run_distributed(_train, 1, values)
    assert folder.newest_checkpoint(run) == newest
