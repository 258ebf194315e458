"""The arithmetic that --dry-run prints."""

from megatron_prealign.config import BlendEntry, Config, config_from_dict, describe, differences


def facts(
    config: Config, world_size: int, vocab_size: int | None = None, word_tokens: float | None = None
) -> dict[str, str]:
    """Read the lines of the arithmetic back."""
    text = describe(config, world_size, vocab_size, word_tokens).split("Arithmetic:\n")[1]
    return {line[2:].split("  ")[0]: line[2:].split("  ", 1)[1].strip() for line in text.splitlines()}


def test_only_what_differs_is_shown() -> None:
    config = config_from_dict({"data": {"blend": [{"prefix": "a"}]}, "training": {"seed": 1234, "train_steps": 5}})
    blend = (BlendEntry(prefix="a"),)
    assert differences(config) == [("data.blend", blend, ()), ("training.train_steps", 5, 1000)]
    text = describe(config, 1)
    assert "  data.blend = [{prefix: a, language: en, weight: 1.0}]  (default [])\n" in text
    assert "  training.train_steps = 5  (default 1000)\n" in text
    assert "seed" not in text
    assert describe(Config(), 1).startswith("Nothing differs from the defaults.\n")


def test_arithmetic_of_a_parallel_run() -> None:
    config = config_from_dict(
        {
            "model": {"preset": "1b"},
            "data": {"seq_length": 1024},
            "parallel": {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 4},
            "training": {"global_batch_size": 256, "micro_batch_size": 4, "train_steps": 20000},
        }
    )
    assert facts(config, 64) == {
        "model": "gpt_neox, 24 layers x 2048, 16 heads in 16 groups, FFN 8192",
        "parameters": "1.41 B (1,414,647,808) in total, 1.21 B (1,208,602,624) without embeddings",
        "vocabulary": "50,277 tokens, assumed for preset 1b, padded to 50,304 rows",
        "ranks": "2 tensor x 4 pipeline x 8 data = 64",
        "microbatches per step": "8 of 4 sequences per data-parallel rank",
        "tokens per step": "262,144 (256 sequences x 1024)",
        "steps": "20,000 of stage pretrain",
        "total tokens": "5.24 B (5,242,880,000)",
    }


def test_vocabulary_of_the_run_wins_over_the_assumed_one() -> None:
    config = config_from_dict({"model": {"preset": "tiny"}})
    assert facts(config, 1, 1000)["vocabulary"] == "1,000 tokens, padded to 1,024 rows"
    named = config_from_dict({"model": {"preset": "tiny", "vocab_size": 500}})
    assert facts(named, 1, 1000)["vocabulary"] == "500 tokens, padded to 512 rows"
    unknown = facts(Config(), 1)
    assert "vocabulary" not in unknown
    assert unknown["parameters"] == "1.05 M (1,049,728) without embeddings"


def test_words_of_align_init_are_counted() -> None:
    config = config_from_dict(
        {"training": {"stage": "align_init"}, "alignment": {"word_batch_size": 64, "num_word_microbatches": 3}}
    )
    found = facts(config, 1)
    assert found["lexicon entries per step"] == "192 (3 word microbatches x 64), each a word and its translations"
    assert found["total tokens"] == "2.05 M (2,048,000), and those of the words"
    assert facts(config, 1, word_tokens=250.5)["total tokens"] == "2.05 M (2,048,000), and about 751,500 of words"


def test_words_of_stage_2_are_counted_in_the_steps_that_have_them() -> None:
    alignment = {"maintain_interval": 300, "word_batch_size": 64}
    config = config_from_dict({"alignment": alignment})
    found = facts(config, 1, word_tokens=250.4)
    assert found["lexicon entries every 300 steps"] == "64 (1 word microbatches x 64), each a word and its translations"
    # In the steps 1, 301, 601 and 901 of 1,000.
    assert found["total tokens"] == "2.05 M (2,048,000), and about 1,002 of words"
    without = facts(config_from_dict({"alignment": {**alignment, "maintain_weight": 0}}), 1)
    assert without["total tokens"] == "2.05 M (2,048,000)"
