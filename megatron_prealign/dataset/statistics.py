"""What a bake met and did, as a table for people."""

from pathlib import Path

from rich.table import Table

from megatron_prealign.dataset.manifest import Manifest

_NUM_EXAMPLES = 3


def statistics_table(prefix: str | Path, manifest: Manifest) -> Table:
    """Return the counts of a dataset.

    Args:
        prefix: The dataset's path without `.bin`.
        manifest: The dataset's.
    """
    counts, provenance = manifest.content["counts"], manifest.provenance
    table = Table(title=str(prefix), show_header=False, title_justify="left")
    table.add_row("documents", f"{counts['documents']:,}")
    if counts.get("skipped"):
        table.add_row("lines left out", f"{counts['skipped']:,}")
        for example in provenance.get("skipped_examples", [])[:_NUM_EXAMPLES]:
            table.add_row("", example)
    table.add_row("tokens", f"{counts['tokens']:,}")
    if "seconds" in provenance:
        table.add_row("tokens a second", f"{counts['tokens'] / max(provenance['seconds'], 1e-3):,.0f}")
    table.add_row("words", f"{counts['words']:,}")
    if manifest.content["lexicon_fingerprint"]:
        table.add_row("codeswitch ratio", f"{manifest.content['codeswitch_ratio']}")
        table.add_row("words covered by the lexicon", _share(counts["covered"], counts["words"]))
        table.add_row("words switched", _share(counts["switched"], counts["words"]))
        table.add_row("tokens switched", _share(counts["switched_tokens"], counts["tokens"]))
        for language, count in counts["by_language"].items():
            table.add_row(f"  words into {language}", _share(count, counts["switched"]))
    return table


def _share(count: int, whole: int) -> str:
    return f"{count:,}  ({count / max(whole, 1):.2%})"
