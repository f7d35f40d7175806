"""The manifests satisfy the rules of Kubernetes, and survive preemption, eviction and lost nodes."""

import shutil
from copy import deepcopy
from itertools import product
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipelines.cluster.kubernetes import Manifest, job_spec, kustomize, render_overlay
from pipelines.errors import EXIT_CONFIG_ERROR, EXIT_REQUEUE
from tests.k8s.manifests import (
    COMPONENTS,
    CUSTOM_KINDS,
    OVERLAYS,
    ROOT,
    pod_of,
    policy_violations,
    rejections,
    validate,
)

COMBINATIONS = [(overlay, *some) for overlay, some in product(OVERLAYS, [(), *((c,) for c in COMPONENTS), COMPONENTS])]


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render_overlay(request.param)


@pytest.mark.parametrize("version", ["1.31", "1.36", "1.37"])
@pytest.mark.parametrize("choice", COMBINATIONS, ids="+".join)
def test_built_in_kinds_are_valid_against_the_schemas(choice: tuple[str, ...], version: str) -> None:
    for manifest in render_overlay(*choice):
        if manifest["kind"] not in CUSTOM_KINDS:
            validate(manifest, version)


@pytest.mark.parametrize("choice", COMBINATIONS, ids="+".join)
def test_custom_kinds_are_valid_against_their_schemas(choice: tuple[str, ...]) -> None:
    for manifest in render_overlay(*choice):
        if manifest["kind"] in CUSTOM_KINDS:
            validate(manifest)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_job_inside_a_custom_kind_is_a_valid_job(overlay: str) -> None:
    whole = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "e4t"},
        "spec": job_spec(render_overlay(overlay)),
    }
    validate(whole)


def test_an_unknown_field_of_a_custom_kind_is_found() -> None:
    (jobset,) = (each for each in render_overlay("jobset-kueue") if each["kind"] == "JobSet")
    wrong = deepcopy(jobset)
    wrong["spec"]["replicatedJob"] = []
    with pytest.raises(jsonschema.ValidationError, match="replicatedJob"):
        validate(wrong)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_custom_recipe_reaches_the_pods(overlay: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    (tmp_path / "my-run").mkdir()
    (tmp_path / "my-run" / "recipe.yaml").write_text("name: mine\n")
    own = {"name": "e4t-recipe", "behavior": "replace", "files": ["recipe.yaml"]}
    chosen = {"resources": [f"../k8s/overlays/{overlay}"], "configMapGenerator": [own]}
    (tmp_path / "my-run" / "kustomization.yaml").write_text(yaml.safe_dump(chosen))
    manifests = kustomize(str(tmp_path / "my-run"))
    data = {each["metadata"]["name"]: each["data"] for each in manifests if each["kind"] == "ConfigMap"}
    (named,) = (each["configMap"]["name"] for each in pod_of(manifests)["volumes"] if "configMap" in each)
    assert data == {named: {"recipe.yaml": "name: mine\n"}}


def test_the_service_has_the_subdomain_of_the_pods(manifests: list[Manifest]) -> None:
    kinds = {each["kind"]: each for each in manifests}
    if "Service" in kinds:
        assert kinds["Service"]["metadata"]["name"] == pod_of(manifests)["subdomain"]
        assert (
            kinds["Service"]["spec"]["selector"].items()
            <= job_spec(manifests)["template"]["metadata"]["labels"].items()
        )
    else:  # JobSet creates it
        assert kinds.keys() & {"JobSet", "TrainJob"}


def test_the_rendezvous_is_the_stable_host_name_of_the_first_pod() -> None:
    hosts = {}
    for overlay in OVERLAYS:
        environment = {
            each["name"]: each.get("value") for each in pod_of(render_overlay(overlay))["containers"][0]["env"]
        }
        hosts[overlay] = environment["MASTER_ADDR"]
    assert hosts == {"plain": "e4t-0.e4t", "jobset-kueue": "e4t-nodes-0-0.e4t", "trainjob": "e4t-node-0-0.e4t"}


def test_a_pod_gets_its_node_rank_and_the_number_of_nodes(manifests: list[Manifest]) -> None:
    environment = {each["name"]: each for each in pod_of(manifests)["containers"][0]["env"]}
    index = environment["NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    job = job_spec(manifests)
    assert int(environment["NNODES"]["value"]) == job["completions"] == job["parallelism"]
    assert job["completionMode"] == "Indexed"


def test_the_job_fails_on_a_configuration_error_and_ignores_a_requeue(manifests: list[Manifest]) -> None:
    rules = job_spec(manifests)["podFailurePolicy"]["rules"]
    by_code = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    assert by_code == {EXIT_CONFIG_ERROR: "FailJob", EXIT_REQUEUE: "Ignore"}
    assert [rule["action"] for rule in rules if "onPodConditions" in rule] == ["Ignore"]
    names = {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule}
    assert names == {each["name"] for each in pod_of(manifests)["containers"]}


def test_a_pod_is_replaced_after_it_has_ended_and_has_time_to_save(manifests: list[Manifest]) -> None:
    job, pod = job_spec(manifests), pod_of(manifests)
    assert job["podReplacementPolicy"] == "Failed"
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert {"backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"} <= job.keys()


@pytest.mark.parametrize("choice", COMBINATIONS, ids="+".join)
def test_requests_equal_limits(choice: tuple[str, ...]) -> None:
    for container in pod_of(render_overlay(*choice))["containers"]:
        assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(("component", "device"), [("gpu", "nvidia.com/gpu"), ("rdma", "rdma/hca")])
def test_a_component_requests_its_device_for_each_pod(overlay: str, component: str, device: str) -> None:
    assert pod_of(render_overlay(overlay, component))["containers"][0]["resources"]["limits"][device] == "1"
    assert device not in pod_of(render_overlay(overlay))["containers"][0]["resources"]["limits"]


def test_every_path_that_is_written_to_is_a_volume(manifests: list[Manifest]) -> None:
    pod = pod_of(manifests)
    (container,) = pod["containers"]
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {"/opt/e4t/data", "/opt/e4t/runs", "/tmp", "/dev/shm"} <= mounts  # noqa: S108 - paths in the pod
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_manifests_refer_to_the_secret_and_never_contain_one(manifests: list[Manifest]) -> None:
    assert pod_of(manifests)["containers"][0]["envFrom"] == [{"secretRef": {"name": "e4t", "optional": True}}]
    assert "Secret" not in {each["kind"] for each in manifests}


@pytest.mark.parametrize("choice", COMBINATIONS, ids="+".join)
def test_pods_meet_the_restricted_pod_security_standard(choice: tuple[str, ...]) -> None:
    pod = pod_of(render_overlay(*choice))
    assert list(policy_violations(pod)) == []
    assert pod["automountServiceAccountToken"] is False


BAD = {
    "host namespaces": lambda pod: pod.update(hostNetwork=True),
    "volumes": lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "host port": lambda pod: pod["containers"][0].update(ports=[{"containerPort": 1, "hostPort": 1}]),
    "privileged": lambda pod: pod["containers"][0]["securityContext"].update(privileged=True),
    "privilege escalation": lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
    "may run as root": lambda pod: pod["securityContext"].pop("runAsNonRoot"),
    "runs as root": lambda pod: pod["containers"][0]["securityContext"].update(runAsUser=0),
    "seccomp": lambda pod: pod["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    "capabilities kept": lambda pod: pod["containers"][0]["securityContext"].pop("capabilities"),
    "capabilities added": lambda pod: pod["containers"][0]["securityContext"]["capabilities"].update(add=["IPC_LOCK"]),
    "proc mount": lambda pod: pod["containers"][0]["securityContext"].update(procMount="Unmasked"),
    "AppArmor": lambda pod: pod["securityContext"].update(appArmorProfile={"type": "Unconfined"}),
    "SELinux": lambda pod: pod["containers"][0]["securityContext"].update(seLinuxOptions={"user": "system_u"}),
    "host process": lambda pod: pod["securityContext"].update(windowsOptions={"hostProcess": True}),
    "sysctls": lambda pod: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
}


@pytest.mark.parametrize("rule", BAD)
def test_a_pod_that_violates_a_rule_is_found(rule: str) -> None:
    pod = deepcopy(pod_of(render_overlay("plain")))
    BAD[rule](pod)
    assert list(policy_violations(pod)) == [rule]


def test_init_containers_are_checked_too() -> None:
    pod = deepcopy(pod_of(render_overlay("plain")))
    pod["initContainers"] = [{"name": "before", "image": "e4t"}]
    assert set(policy_violations(pod)) == {"privilege escalation", "capabilities kept"}


@pytest.mark.parametrize("choice", COMBINATIONS, ids="+".join)
def test_the_server_would_accept_every_manifest(choice: tuple[str, ...]) -> None:
    assert list(rejections(render_overlay(*choice))) == []


def _container(manifests: list[Manifest]) -> Manifest:
    container: Manifest = pod_of(manifests)["containers"][0]
    return container


REJECTED = {
    "name of a pod": lambda all_: all_[-1]["metadata"].update(name="e4t-" + "x" * 60),
    "label": lambda all_: all_[0]["metadata"].setdefault("labels", {}).update(run="it's mine"),
    "size of the recipe": lambda all_: all_[0]["data"].update({"recipe.yaml": "#" * (2**20 + 1)}),
    "restart policy": lambda all_: pod_of(all_).update(restartPolicy="OnFailure"),
    "completions": lambda all_: job_spec(all_).pop("parallelism"),
    "replacement policy": lambda all_: job_spec(all_).update(podReplacementPolicy="TerminatingOrFailed"),
    "exit codes": lambda all_: job_spec(all_)["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"].append(0),
    "quantity": lambda all_: _container(all_)["resources"]["limits"].update(memory="16GB"),
    "variable": lambda all_: _container(all_)["env"].append({"name": "2ND", "value": ""}),
    "mount": lambda all_: pod_of(all_)["volumes"].pop(),
}


@pytest.mark.parametrize("rule", REJECTED)
def test_a_manifest_that_the_server_would_reject_is_found(rule: str) -> None:
    manifests = render_overlay("plain")
    REJECTED[rule](manifests)
    assert list(rejections(manifests)) == [rule]
