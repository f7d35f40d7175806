"""Run the pods of `e4t submit k8s` in containers, with their commands, variables, mounts, users and names."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from benchmarks.faults.job import Job as Training
from benchmarks.faults.job import RunFolder
from pipelines.cluster.jobs import Job
from pipelines.cluster.kubernetes import KubernetesSite, build_manifests
from tests.k8s.containers import Node, RunningJob, cannot_have_containers

pytestmark = [pytest.mark.pods, pytest.mark.distributed, pytest.mark.timeout(900)]
PRETRAIN = Job("pretrain", "ranks", ("pretrain",), 2)
SITE = KubernetesSite(gpus=False, cpu="1", memory="4Gi", retries=2, grace_seconds=60)
STEPS = 10


class Cluster:
    """A node, and the volumes of the data and runs claims."""

    def __init__(self, node: Node, training: Training) -> None:
        self.node, self.training = node, training
        shutil.copytree(training.recipe["data"]["output"], node.volume("e4t-data") / "shards")
        self.runs = node.volume("e4t-runs")

    def start(self, name: str, **changes: Any) -> RunningJob:
        """Start a pre-training run of this name on two pods."""
        data = self.training.recipe["data"] | {"source": "data/faces", "output": "data/shards"}
        pretrain = self.training.recipe["pretrain"] | changes
        recipe = self.training.recipe | {
            "name": name, "runs": "runs", "data": data, "base": {"model": "models/base"}, "pretrain": pretrain
        }  # fmt: skip
        return RunningJob(self.node, build_manifests(PRETRAIN, SITE, f"e4t-{name}", yaml.safe_dump(recipe)))

    def run(self, name: str) -> RunFolder:
        """Return the run folder."""
        return RunFolder(self.runs / name)

    def weights(self, name: str) -> dict[str, Any]:
        """Return the trained weight offsets after the last step."""
        return load_file(self.run(name).weights(STEPS) / "weight_offsets.safetensors")

    def is_training(self, name: str) -> bool:
        """Whether the run is beyond its first checkpoint."""
        return any(step >= 3 for _, step in self.run(name).steps())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := cannot_have_containers():
        pytest.skip(reason)
    with Node(tmp_path_factory.mktemp("node")) as node:
        yield Cluster(node, Training.make(tmp_path_factory.mktemp("training"), steps=STEPS))


@pytest.fixture(scope="module")
def uninterrupted(cluster: Cluster) -> dict[str, Any]:
    """Weights of a run without interruptions."""
    job = cluster.start("uninterrupted")
    assert job.wait() == "Complete", job.log
    assert (job.started, job.failures) == (2, 0)
    return cluster.weights("uninterrupted")


def same(weights: dict[str, Any], others: dict[str, Any]) -> bool:
    return weights.keys() == others.keys() and all((weights[name] == others[name]).all() for name in weights)


def test_two_pods_train_in_one_deepspeed_engine(cluster: Cluster, uninterrupted: dict[str, Any]) -> None:
    engine = cluster.run("uninterrupted").lines()[0]
    assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", 2, 2)


def test_a_killed_pod_is_replaced_and_the_run_ends_with_the_same_weights(
    cluster: Cluster, uninterrupted: dict[str, Any]
) -> None:
    job = cluster.start("killed")
    job.until(lambda: cluster.is_training("killed"))
    job.pods[1].kill()
    assert job.wait() == "Complete", job.log
    assert (job.failures, job.started) == (2, 4)  # the other rank lost its peer and exited, too
    assert same(cluster.weights("killed"), uninterrupted)


def test_an_evicted_pod_saves_within_its_grace_period_and_is_not_counted_as_failed(
    cluster: Cluster, uninterrupted: dict[str, Any]
) -> None:
    job = cluster.start("evicted")
    job.until(lambda: cluster.is_training("evicted"))
    job.evict(0)
    assert job.wait() == "Complete", job.log
    assert (job.failures, job.ignored) == (0, 2)
    assert "SIGTERM" in job.log
    steps = [step for _, step in cluster.run("evicted").steps()]
    assert sorted(steps) == list(range(1, STEPS + 1))  # no step was repeated
    assert same(cluster.weights("evicted"), uninterrupted)


def test_a_configuration_error_fails_the_job_at_once(cluster: Cluster) -> None:
    job = cluster.start("wrong", global_batch_size=7)
    assert job.wait() == "Failed"
    assert (job.failures, job.started) == (0, 2)
    assert "batch_size" in job.log
