"""What `e4t submit slurm` sends, run by a real SLURM on two nodes."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from benchmarks.faults.job import Job, RunFolder
from pipelines.cli import main
from pipelines.submission.folder import sent, submissions
from tests.cluster.slurm import SlurmCluster, cannot_have_slurm

pytestmark = [pytest.mark.cluster, pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]
SITE = {"gpus": False, "requeues": 2, "warn_seconds": 60, "time": "20:00"}


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if reason := cannot_have_slurm():
        pytest.skip(reason)
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job.make(tmp_path_factory.mktemp("job"), steps=10)


@dataclass
class User:
    """Somebody who submits runs of a recipe."""

    cluster: SlurmCluster
    job: Job

    def submit(self, name: str, stage: str, *words: str, **changes: Any) -> dict[str, list[str]]:
        """Send a stage of the run of that name, on two nodes; gives the ids of its jobs."""
        site = self.job.folder / "site.yaml"
        site.write_text(yaml.safe_dump(SITE))
        recipe = self.job.folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(self.job.recipe | {"name": name} | changes))
        asked = ["--recipe", str(recipe), "--job", stage, "--nodes", "2", "--tasks", "4", "--site", str(site), *words]
        assert main(["submit", "slurm", *asked]) == 0
        return dict(sent(submissions(self.run(name).path)[-1]).jobs)

    def run(self, name: str) -> RunFolder:
        """What a run has left so far."""
        return self.job.run(name)

    def weights(self, name: str) -> dict[str, Any]:
        """What a run has learned after all of its steps."""
        return load_file(self.run(name).weights(self.job.steps) / "weight_offsets.safetensors")

    def log(self, name: str) -> str:
        """Everything that a run's jobs have printed."""
        return "\n".join(path.read_text() for path in self.run(name).path.glob("submissions/*/logs/*.log"))

    def until_step(self, name: str, step: int) -> None:
        """Wait until training has done that step."""
        self.cluster.soon(lambda: any(done >= step for _, done in self.run(name).steps()), 200)


@pytest.fixture(scope="session")
def user(slurm: SlurmCluster, job: Job) -> User:
    """One whose run of the name ``undisturbed`` has ended."""
    user = User(slurm, job)
    (ids,) = user.submit("undisturbed", "pretrain").values()
    assert slurm.ended(*ids) == ["COMPLETED"], user.log("undisturbed")
    return user


def same(weights: dict[str, Any], others: dict[str, Any]) -> bool:
    return weights.keys() == others.keys() and all((weights[name] == others[name]).all() for name in weights)


def test_two_nodes_train_in_one_deepspeed_engine(user: User) -> None:
    engine = user.run("undisturbed").lines()[0]
    assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", 2, 2)


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_a_run_that_is_warned_is_requeued_and_ends_with_the_same_weights(user: User, launcher: str) -> None:
    name = f"warned-{launcher}"
    (ids,) = user.submit(name, "pretrain", "--site.launcher", launcher).values()
    user.until_step(name, 3)
    user.cluster.ask("scancel", "--signal=USR2", ids[0])
    assert user.cluster.ended(*ids) == ["COMPLETED"], user.log(name)
    assert user.cluster.fact(ids[0], "Restarts") == "1"
    assert same(user.weights(name), user.weights("undisturbed"))


def test_a_run_with_a_killed_rank_is_requeued_and_ends_with_the_same_weights(user: User) -> None:
    (ids,) = user.submit("killed", "pretrain").values()
    user.until_step("killed", 3)
    os.kill(rank_of("killed", 1), signal.SIGKILL)
    assert user.cluster.ended(*ids) == ["COMPLETED"], user.log("killed")
    assert user.cluster.fact(ids[0], "Restarts") == "1"
    assert same(user.weights("killed"), user.weights("undisturbed"))


def rank_of(name: str, rank: int) -> int:
    """The process that trains as that rank of a run."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = b"pretrain" in words and any(f"/{name}/".encode() in word for word in words)
        if ours and words[1:3] == [b"-m", b"e4t"] and f"RANK={rank}".encode() in environment:
            return int(process.name)
    raise AssertionError(f"no rank {rank} of {name}")


def test_a_wrong_recipe_is_not_tried_again(user: User) -> None:
    changed = user.job.recipe["pretrain"] | {"learning_rate": 0.5}
    (ids,) = user.submit("undisturbed", "pretrain", pretrain=changed).values()
    assert user.cluster.ended(*ids) == ["FAILED"]
    assert user.cluster.fact(ids[0], "ExitCode") == "78:0"
    assert user.cluster.fact(ids[0], "Restarts") == "0"


def test_a_cancelled_run_stays_cancelled(user: User) -> None:
    (ids,) = user.submit("cancelled", "pretrain").values()
    user.until_step("cancelled", 1)
    user.cluster.ask("scancel", ids[0])
    assert user.cluster.ended(*ids) == ["CANCELLED"]
    assert user.cluster.fact(ids[0], "Restarts") == "0"


def test_an_array_with_a_failing_shard_stops_the_chain_and_is_mended_by_sending_it_again(user: User) -> None:
    shards = user.job.folder / "mended"
    data = user.job.recipe["data"] | {"output": str(shards)}
    in_the_way = shards / "work" / "drafts" / "train-000001.tar"
    in_the_way.mkdir(parents=True)
    sent = user.submit("mended", "prepare", data=data)
    assert len(sent["prepare-work"]) == 2  # four tasks, of which the cluster takes three in an array
    states = user.cluster.ended(*(job for ids in sent.values() for job in ids))
    assert (states[0], states[-1], states.count("FAILED")) == ("COMPLETED", "CANCELLED", 1)
    in_the_way.rmdir()
    sent = user.submit("mended", "prepare", data=data)
    assert set(user.cluster.ended(*(job for ids in sent.values() for job in ids))) == {"COMPLETED"}
    assert main(["prepare", "--verify", "--recipe", str(user.job.folder / "mended.yaml")]) == 0


def test_the_whole_chain_ends_in_a_registered_release(user: User, capfd: pytest.CaptureFixture[str]) -> None:
    pretrain = user.job.recipe["pretrain"] | {"cached": True, "steps": 4}
    sent = user.submit(
        "chain",
        "pipeline",
        data=user.job.recipe["data"] | {"output": str(user.job.folder / "chain")},
        pretrain=pretrain,
        tune={"steps": 1, "batch_size": 2},
        sample={"steps": 2},
        evaluate={"concepts": 1, "shown": 1, "edits": 1, "steps": [0]},
    )
    jobs = ["prepare-plan", "prepare-work", "prepare-merge", "cache", "pretrain", "evaluate", "release"]
    assert list(sent) == jobs
    states = user.cluster.ended(*(job for ids in sent.values() for job in ids), seconds=600)
    assert set(states) == {"COMPLETED"}, user.log("chain")
    run = user.run("chain").path
    assert "registered: models:/chain/1" in user.log("chain")
    assert json.loads((run / "evaluation" / "report.json").read_text())["systems"]
    capfd.readouterr()
    assert main(["status", str(run)]) == 0
    said = capfd.readouterr().out
    assert f"pretrain  {sent['pretrain'][0]}  COMPLETED" in said
    assert "step 4 of 4" in said
