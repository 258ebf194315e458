"""The chain on Kubernetes: the steps of chain.yaml in its order, and manifests that the published schemas accept."""

from pathlib import Path
from typing import Any

import pytest
import yaml

OWN_DATA = Path(__file__).resolve().parents[2] / "examples" / "own_data"


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((OWN_DATA / "kubernetes.yaml").read_text(encoding="utf-8")))


def _container(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def test_the_jobs_are_the_steps_of_the_chain(manifests: list[dict[str, Any]]) -> None:
    _, jobset = manifests
    jobs = {job["name"]: job for job in jobset["spec"]["replicatedJobs"]}
    chain = yaml.safe_load((OWN_DATA / "chain.yaml").read_text(encoding="utf-8"))
    steps = {step["name"].replace("_", "-"): step for step in chain["steps"]}
    assert jobs.keys() == steps.keys()
    before: str | None = None
    for name, step in steps.items():
        assert jobs[name].get("dependsOn", []) == ([{"name": before, "status": "Complete"}] if before else [])
        if not step.get("beside"):
            before = name
    for name in ("lexicon", "bake", "convert", "evaluate"):
        wanted = steps[name]["command"].replace("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")
        (command,) = _container(jobs[name])["args"]
        assert command.split() == wanted.replace('"$SLURM_CPUS_PER_TASK"', "32").split()
    for name in ("align-init", "pretrain"):
        container = _container(jobs[name])
        words = [*container["command"], *container["args"]]
        assert f"--rdzv-endpoint={jobset['metadata']['name']}-{name}-0-0.{jobset['metadata']['name']}:29500" in words
        shown = steps[name]["command"].split()
        assert words[words.index("pretrain_prealign.py") :] == shown[shown.index("pretrain_prealign.py") :]
        assert f"--nnodes={jobs[name]['template']['spec']['completions']}" in words


def test_the_published_schemas_accept_the_manifests(manifests: list[dict[str, Any]]) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate (108 MB)")
    claim, jobset = manifests
    version = validator.latest_version()
    validator.validate(claim, version, strict=True)
    for job in jobset["spec"]["replicatedJobs"]:
        validator.validate(
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}} | job["template"], version, strict=True
        )
