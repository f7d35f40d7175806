"""Submissions to Kubernetes with a fake kubectl; tests/k8s/test_pods.py runs the pods in containers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from e4t_errors import ConfigError
from pipelines.cluster.jobs import RECIPE_FILE, Job, Stage, jobs_for_stage
from pipelines.cluster.kubernetes import (
    WORKLOAD_KINDS,
    KubernetesSite,
    Manifest,
    build_manifests,
    build_submission,
    job_name,
    job_spec,
)
from pipelines.cluster.submission import SubmittedJobs, list_submissions, load_submitted_jobs
from tests.k8s.manifests import OVERLAYS, pod_of, policy_violations, rejections, validate

PRETRAIN = Job("pretrain", "ranks", ("pretrain",), 2)
CACHE = Job("cache", "array", ("cache", "--stage", "work"), 40)
KUBECTL = str(Path(sys.executable).parent / "kubectl")
# A kubectl that records its calls, and reports the states of workloads from the file "conditions".
FAKE_KUBECTL = """#!/usr/bin/env python3
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
if sys.argv[1] == "kustomize":
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
with (here / "calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "get":
    print(json.loads((here / "conditions").read_text()).get(sys.argv[3], ""), end="")
"""


def manifests_of(job: Job, **site: Any) -> list[Manifest]:
    return build_manifests(job, KubernetesSite(**site), "e4t-run-001", "name: run\n")


def names_by_kind(manifests: list[Manifest]) -> dict[str, str]:
    return {each["kind"]: each["metadata"]["name"] for each in manifests}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("stage", get_args(Stage))
def test_every_manifest_is_valid(overlay: str, stage: Stage, tmp_path: Path) -> None:
    for job in jobs_for_stage(stage, nodes=2, array_size=3, use_feature_cache=True):
        manifests = manifests_of(job, overlay=overlay, rdma=True, namespace="team")
        for manifest in manifests:
            validate(manifest)
        assert list(policy_violations(pod_of(manifests))) == []
        assert list(rejections(manifests)) == []


@pytest.mark.parametrize(("overlay", "job"), list(product(OVERLAYS, [PRETRAIN, CACHE])), ids=str)
def test_every_resource_that_a_pod_refers_to_exists(overlay: str, job: Job) -> None:
    manifests = manifests_of(job, overlay=overlay)
    (pod,) = [pod_of(manifests)]
    recipe = next(each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each)
    assert names_by_kind(manifests)["ConfigMap"] == recipe
    if "Service" in names_by_kind(manifests):
        assert names_by_kind(manifests)["Service"] == pod["subdomain"]
    assert set(names_by_kind(manifests).values()) == {"e4t-run-001"}


@pytest.mark.parametrize(
    ("overlay", "first"),
    [("plain", "e4t-run-001-0"), ("jobset-kueue", "e4t-run-001-nodes-0-0"), ("trainjob", "e4t-run-001-node-0-0")],
)
def test_the_rendezvous_is_on_the_first_pod(overlay: str, first: str) -> None:
    (container,) = pod_of(manifests_of(PRETRAIN, overlay=overlay))["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["MASTER_ADDR"] == f"{first}.e4t-run-001"
    assert environment["NNODES"] == "2"


def test_the_service_of_a_submission_does_not_select_pods_of_another() -> None:
    first, second = (build_manifests(PRETRAIN, KubernetesSite(), name, "") for name in ("e4t-a", "e4t-b"))
    (service,) = (each for each in first if each["kind"] == "Service")
    labels = job_spec(second)["template"]["metadata"]["labels"]
    assert not service["spec"]["selector"].items() <= labels.items()


def test_a_pod_starts_one_rank_per_device() -> None:
    (container,) = pod_of(manifests_of(PRETRAIN, devices_per_node=8))["containers"]
    assert container["args"][-2:] == ["--nproc", "8"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"


@pytest.mark.parametrize(("cpu", "threads"), [("64", "8"), ("12", "1"), ("500m", "1"), ("16000m", "2")])
def test_ranks_of_a_pod_share_its_cores(cpu: str, threads: str) -> None:
    (container,) = pod_of(manifests_of(PRETRAIN, devices_per_node=8, cpu=cpu))["containers"]
    assert {"name": "OMP_NUM_THREADS", "value": threads} in container["env"]


@pytest.mark.parametrize("amount", ["16GB", "sixteen", "16 Gi", "-1", ""])
def test_an_invalid_quantity_is_rejected(amount: str) -> None:
    with pytest.raises(ConfigError, match="memory is .*such as"):
        KubernetesSite(memory=amount)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_workload_is_applied_after_the_resources_that_it_refers_to(overlay: str) -> None:
    kinds = [each["kind"] for each in manifests_of(PRETRAIN, overlay=overlay)]
    assert kinds[-1] in WORKLOAD_KINDS
    assert not set(kinds[:-1]) & set(WORKLOAD_KINDS)


def test_an_array_has_a_pod_per_task_and_limits_parallelism() -> None:
    job = job_spec(manifests_of(CACHE, max_parallel_pods=16))
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (40, 16, "Indexed")
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"] == ["cache", "--recipe", "/etc/e4t/recipe.yaml", "--stage", "work"]
    assert {"name": "JOB_COMPLETIONS", "value": "40"} in container["env"]
    assert "NNODES" not in {each["name"] for each in container["env"]}


def test_prepare_requests_no_gpu() -> None:
    (container,) = pod_of(manifests_of(Job("prepare-plan", "one", ("prepare",))))["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


@settings(max_examples=50, deadline=None)
@given(recipe=some.text(some.characters(exclude_categories=["Cs", "Cc"]) | some.just("\n")) | some.sampled_from("1yN"))
def test_any_recipe_reaches_the_pods_unchanged(recipe: str) -> None:
    files = build_submission(
        [PRETRAIN], KubernetesSite(), Path("runs/run/submissions/001-pretrain"), "run", {RECIPE_FILE: recipe}
    )
    (data,) = (each["data"] for each in read_by_kubectl(files.files["1-pretrain.yaml"]) if each["kind"] == "ConfigMap")
    assert data == {"recipe.yaml": recipe}


def read_by_kubectl(text: str) -> Iterator[Manifest]:
    """Yield the manifests as kubectl parses them."""
    read = [KUBECTL, "label", "--local", "--filename=-", "--output=json", "read=true"]
    text = subprocess.run(read, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own command
    while text := text.lstrip():
        manifest, end = json.JSONDecoder().raw_decode(text)
        yield manifest
        text = text[end:]


@settings(max_examples=50, deadline=None)
@given(run=some.text(min_size=1))
def test_any_run_name_gives_a_valid_host_name(run: str) -> None:
    job = Job("compare-present", "one", ("compare",))
    name = job_name(job, Path("/somewhere/submissions/123-compare"), run)
    assert list(rejections(build_manifests(job, KubernetesSite(overlay="jobset-kueue"), name, ""))) == []
    assert name == name.lower() and all(word.isalnum() and word.isascii() for word in name.split("-"))


class Cluster:
    """A fake kubectl: sets the state of workloads, and returns its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "kubectl").write_text(FAKE_KUBECTL.format(real=KUBECTL))
        (folder / "kubectl").chmod(0o755)
        self.set_conditions()

    def set_conditions(self, **conditions: str) -> None:
        self.calls_file.unlink(missing_ok=True)
        by_file = {f"{name}.yaml": text for name, text in conditions.items()}
        (self.folder / "conditions").write_text(json.dumps(by_file))

    @property
    def calls_file(self) -> Path:
        return self.folder / "calls"

    def changes(self) -> list[str]:
        """Return all calls but queries, such as ``apply a``."""
        calls = [json.loads(line) for line in self.calls_file.read_text().splitlines()]
        return [f"{words[0]} {words[2].removesuffix('.yaml')}" for words in calls if words[0] != "get"]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return Cluster(tmp_path / "bin")


def send_all(folder: Path) -> "subprocess.CompletedProcess[str]":
    script = Path(__file__).parents[3] / "k8s" / "send.sh"
    run = ["bash", str(script), "a.yaml", "b.yaml"]
    return subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False, env=os.environ.copy())  # noqa: S603 - our own command


def test_a_job_is_applied_after_the_job_before_has_completed(cluster: Cluster) -> None:
    cluster.set_conditions(a="SuccessCriteriaMet Complete")
    assert send_all(cluster.folder).returncode == 0
    assert cluster.changes() == ["apply b"]


@pytest.mark.parametrize("found", ["ConfigMap Service Job", "ConfigMap JobSet Suspended", "ConfigMap TrainJob"])
def test_an_active_job_is_not_applied_again(cluster: Cluster, found: str) -> None:
    cluster.set_conditions(a="Job Complete", b=found)
    assert "b.yaml is already active" in send_all(cluster.folder).stdout
    assert cluster.changes() == []


def test_a_job_of_which_only_the_recipe_exists_is_applied(cluster: Cluster) -> None:
    cluster.set_conditions(a="Job Complete", b="ConfigMap")
    assert send_all(cluster.folder).returncode == 0
    assert cluster.changes() == ["apply b"]


def test_after_a_failed_job_no_other_is_applied(cluster: Cluster) -> None:
    cluster.set_conditions(a="Failed")
    done = send_all(cluster.folder)
    assert done.returncode == 1
    assert "a.yaml failed" in done.stderr
    assert cluster.changes() == ["delete a", "apply a"]


def test_submitting_records_the_names_of_the_jobs(
    recipe: Path, e4t: Callable[..., tuple[int, str, str]], cluster: Cluster
) -> None:
    site = ("--site.namespace", "team", "--site.overlay", "jobset-kueue")
    code, out, err = e4t("submit", "k8s", "--recipe", recipe, "--stage", "release", *site)
    assert code == 0, err
    (folder,) = list_submissions(recipe.parent / "runs" / "small")
    name = job_name(Job("release", "one", ("release",)), folder, "small")
    assert load_submitted_jobs(folder) == SubmittedJobs("k8s", {"release": [f"team/jobset/{name}"]})
    assert cluster.changes() == ["apply 1-release"]
    assert {"recipe.yaml", "code.json", "code.diff", "1-release.yaml", "send.sh", "submit.sh"} <= {
        path.name for path in folder.iterdir()
    }


def test_a_dry_run_prints_every_file_and_writes_none(recipe: Path, e4t: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = e4t("submit", "k8s", "--recipe", recipe, "--stage", "all", "--dry-run")
    assert code == 0
    assert all(
        f"-{job.name}.yaml" in out for job in jobs_for_stage("all", nodes=1, array_size=8, use_feature_cache=False)
    )
    assert not list_submissions(recipe.parent / "runs" / "small")


def test_a_site_without_a_grace_period_is_rejected() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        KubernetesSite(grace_seconds=0)


def test_shellcheck_accepts_the_send_script() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    script = Path(__file__).parents[3] / "k8s" / "send.sh"
    done = subprocess.run([str(shellcheck), str(script)], capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    assert done.stdout == ""
