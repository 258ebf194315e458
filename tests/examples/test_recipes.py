"""Recipes for real scale: sound on the GPUs that they are for, in every stage, and their arithmetic is right."""

import json
import re
from pathlib import Path

import pytest

from examples.recipes import arithmetic
from megatron_prealign.config import describe, load_config, load_resolved

FOLDER = Path(arithmetic.__file__).parent
RECIPES = {"paper_150m": 8, "paper_400m": 8, "paper_1b": 32, "multilingual_7b": 256}


def test_every_recipe_is_checked() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*RECIPES, "align_init", "joint"}


@pytest.mark.parametrize("overlay", ["", "align_init", "joint"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_a_dry_run(name: str, overlay: str, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "start/checkpoints").mkdir(parents=True)
    recipe = load_resolved(FOLDER / f"{name}.yaml")
    blend = [{"prefix": str(workspace / "data"), "language": entry.language} for entry in recipe.data.blend]
    lexicon = str(workspace / "lexicon.tsv")
    command = ["--config", str(FOLDER / f"{name}.yaml")]
    command += ["--config", str(FOLDER / f"{overlay}.yaml")] if overlay else []
    command += ["--data.tokenizer_path", str(workspace / "tok"), "--data.blend", json.dumps(blend)]
    if overlay == "align_init" or recipe.alignment.maintain_interval:
        command += ["--alignment.lexicon_paths", lexicon, "--alignment.held_out_lexicon_paths", lexicon]
    if not overlay:
        command += ["--checkpoint.init_from", str(tmp_path / "start")]
    loaded = load_config([*command, "--dry-run"], world_size=RECIPES[name])
    assert loaded.dry_run
    config = loaded.config
    assert config.training.stage == ("align_init" if overlay == "align_init" else "pretrain")
    assert (config.checkpoint.init_from is None) == bool(overlay)
    assert f"= {RECIPES[name]}" in describe(config, RECIPES[name])
    assert sum(entry.weight for entry in recipe.data.blend) == pytest.approx(1)


@pytest.mark.parametrize("name", RECIPES)
def test_the_head_of_a_recipe_says_what_it_costs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert arithmetic.main([str(FOLDER / f"{name}.yaml"), "--gpus", str(RECIPES[name])]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert f"# On {RECIPES[name]} H100s, by arithmetic.py --gpus {RECIPES[name]}:" in text
    assert re.findall(r"^#   (.*)$", text, flags=re.MULTILINE) == lines
    hours = re.search(r"([\d,]+) H100 hours", "\n".join(lines))
    assert hours and f"| {hours[1]} |" in (FOLDER / "README.md").read_text()


def test_arithmetic_by_hand() -> None:
    found = arithmetic.Arithmetic(load_resolved(FOLDER / "paper_150m.yaml"), gpus=8, mfu=0.35)
    assert found.tokens == 20_000 * 512 * 1024
    assert found.parameters == 254_179_328
    # Layers 12 (4 + 8) 1024^2, scores and sums 12 x 2 x 1024 x 512, vocabulary 1024 x 50,304; six operations each.
    per_token = 6 * (12 * 12 * 1024**2 + 12 * 1024 * 1024 + 1024 * 50_304)
    assert found.flops == pytest.approx(found.tokens * per_token)
    assert found.gpu_hours == pytest.approx(found.tokens * per_token / (989e12 * 0.35 * 3600))
    assert found.state_bytes == pytest.approx(254_179_328 * 7.5)
    # 16 x 1,024 tokens: 34 bytes x 1,024 x 12 layers each, and 10 bytes x 50,277 logits.
    assert found.activation_bytes == pytest.approx(16_384 * (34 * 1024 * 12 + 10 * 50_277))
    sharded = arithmetic.Arithmetic(load_resolved(FOLDER / "multilingual_7b.yaml"), gpus=256, mfu=0.35)
    assert sharded.state_bytes == pytest.approx(sharded.parameters / 2 * (6 + 12 / 128))


def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("model: {layers: 3}\n")
    assert arithmetic.main([str(path)]) == 2
    assert "x.yaml:1: unknown key model.layers" in capsys.readouterr().err
