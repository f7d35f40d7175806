"""The pods that `e4t submit k8s` sends, run: their own commands, variables, mounts, users and names, in containers."""

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
    """A node, and the claims for data and runs."""

    def __init__(self, node: Node, training: Training) -> None:
        self.node, self.training = node, training
        shutil.copytree(training.recipe["data"]["output"], node.volume("e4t-data") / "shards")
        self.runs = node.volume("e4t-runs")

    def start(self, name: str, **changes: Any) -> RunningJob:
        """Send the pre-training of that name to two pods."""
        data = self.training.recipe["data"] | {"source": "data/faces", "output": "data/shards"}
        pretrain = self.training.recipe["pretrain"] | changes
        recipe = self.training.recipe | {
            "name": name, "runs": "runs", "data": data, "base": {"model": "models/base"}, "pretrain": pretrain
        }  # fmt: skip
        return RunningJob(self.node, build_manifests(PRETRAIN, SITE, f"e4t-{name}", yaml.safe_dump(recipe)))

    def run(self, name: str) -> RunFolder:
        """What it leaves."""
        return RunFolder(self.runs / name)

    def weights(self, name: str) -> dict[str, Any]:
        """What it has learned after all steps."""
        return load_file(self.run(name).weights(STEPS) / "weight_offsets.safetensors")

    def begun(self, name: str) -> bool:
        """Whether it is in the midst of training, with something saved."""
        return any(step >= 3 for _, step in self.run(name).steps())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := cannot_have_containers():
        pytest.skip(reason)
    with Node(tmp_path_factory.mktemp("node")) as node:
        yield Cluster(node, Training.make(tmp_path_factory.mktemp("training"), steps=STEPS))


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> dict[str, Any]:
    """What a run learns that nothing disturbs."""
    job = cluster.start("undisturbed")
    assert job.ended() == "Complete", job.log
    assert (job.started, job.failures) == (2, 0)
    return cluster.weights("undisturbed")


def same(weights: dict[str, Any], others: dict[str, Any]) -> bool:
    return weights.keys() == others.keys() and all((weights[name] == others[name]).all() for name in weights)


def test_two_pods_train_in_one_deepspeed_engine(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    engine = cluster.run("undisturbed").lines()[0]
    assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", 2, 2)


def test_a_killed_pod_is_replaced_and_the_run_ends_with_the_same_weights(
    cluster: Cluster, undisturbed: dict[str, Any]
) -> None:
    job = cluster.start("killed")
    job.until(lambda: cluster.begun("killed"))
    job.pods[1].kill()
    assert job.ended() == "Complete", job.log
    assert (job.failures, job.started) == (2, 4)  # the other noticed, and ended, too
    assert same(cluster.weights("killed"), undisturbed)


def test_an_evicted_pod_saves_within_its_grace_and_nothing_is_counted(
    cluster: Cluster, undisturbed: dict[str, Any]
) -> None:
    job = cluster.start("evicted")
    job.until(lambda: cluster.begun("evicted"))
    job.evict(0)
    assert job.ended() == "Complete", job.log
    assert (job.failures, job.ignored) == (0, 2)
    assert "SIGTERM" in job.log
    steps = [step for _, step in cluster.run("evicted").steps()]
    assert sorted(steps) == list(range(1, STEPS + 1))  # none was done twice
    assert same(cluster.weights("evicted"), undisturbed)


def test_a_wrong_recipe_fails_the_job_at_once(cluster: Cluster) -> None:
    job = cluster.start("wrong", batch_size=7)
    assert job.ended() == "Failed"
    assert (job.failures, job.started) == (0, 2)
    assert "batch_size" in job.log
