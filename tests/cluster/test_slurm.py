"""Submissions of `e4t submit slurm` to a real SLURM with two nodes."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from benchmarks.faults.job import Job, RunFolder
from pipelines.cli.main import main
from pipelines.cluster.submission import list_submissions, load_submitted_jobs
from pipelines.tracking.client import EXPERIMENT, connect
from tests.cluster.slurm import SlurmCluster, cannot_have_slurm, processes

pytestmark = [pytest.mark.cluster, pytest.mark.distributed, pytest.mark.timeout(900)]
SITE = {"gpus": False, "requeues": 3, "warn_seconds": 60, "time": "20:00"}


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
    """A user who submits runs of a recipe."""

    cluster: SlurmCluster
    job: Job

    def submit(self, name: str, stage: str, *words: str, **changes: Any) -> dict[str, list[str]]:
        """Submit a stage of the run ``name`` to two nodes, and return the ids of its jobs."""
        site = self.job.folder / "site.yaml"
        site.write_text(yaml.safe_dump(SITE))
        recipe = self.job.folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(self.job.recipe | {"name": name} | changes))
        arguments = [
            "--recipe",
            str(recipe),
            "--stage",
            stage,
            "--nodes",
            "2",
            "--array-size",
            "4",
            "--site",
            str(site),
            *words,
        ]
        assert main(["submit", "slurm", *arguments]) == 0
        return dict(load_submitted_jobs(list_submissions(self.run(name).path)[-1]).jobs)

    def run(self, name: str) -> RunFolder:
        """Return the run folder."""
        return self.job.run(name)

    def weights(self, name: str) -> dict[str, Any]:
        """Return the trained weight offsets after the last step."""
        return load_file(self.run(name).weights(self.job.steps) / "weight_offsets.safetensors")

    def log(self, name: str) -> str:
        """Return the logs of all jobs of a run."""
        return "\n".join(path.read_text() for path in self.run(name).path.glob("submissions/*/logs/*.log"))

    def until_steps(self, name: str, more: int) -> None:
        """Wait until training has done ``more`` further steps."""
        before = len(self.run(name).steps())
        self.cluster.soon(lambda: len(self.run(name).steps()) >= before + more, 300)

    def until_restarted(self, job: str, times: int) -> None:
        """Wait until a job has been restarted ``times`` times and is running."""
        self.cluster.soon(lambda: self.cluster.fact(job, "Restarts") == str(times), 120)
        self.cluster.soon(lambda: self.cluster.states(job) == ["RUNNING"], 120)

    def tracked(self, name: str) -> list[Any]:
        """Return the MLflow runs of a run."""
        client = connect(self.job.folder / "runs")
        runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
        return [run for run in runs if run.info.run_name.split()[-1] == name]


@pytest.fixture(scope="session")
def user(slurm: SlurmCluster, job: Job) -> User:
    """A user whose run ``uninterrupted`` has completed."""
    user = User(slurm, job)
    (ids,) = user.submit("uninterrupted", "pretrain").values()
    assert slurm.ended(*ids) == ["COMPLETED"], user.log("uninterrupted")
    return user


def same(weights: dict[str, Any], others: dict[str, Any]) -> bool:
    return weights.keys() == others.keys() and all((weights[name] == others[name]).all() for name in weights)


def test_two_nodes_train_in_one_deepspeed_engine(user: User) -> None:
    engine = user.run("uninterrupted").lines()[0]
    assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", 2, 2)


@pytest.fixture(scope="session", params=["srun", "torchrun"])
def interrupted(user: User, request: pytest.FixtureRequest) -> str:
    """A run that was warned, lost a rank and was preempted by a partition of higher priority, and has completed."""
    name = f"interrupted-{request.param}"
    (ids,) = user.submit(name, "pretrain", "--site.launcher", request.param).values()
    user.until_steps(name, 3)
    user.cluster.ask("scancel", "--signal=USR2", ids[0])
    user.until_restarted(ids[0], 1)
    user.until_steps(name, 1)
    os.kill(rank_of(name, 1), signal.SIGKILL)
    user.until_restarted(ids[0], 2)
    user.until_steps(name, 1)
    options = ("--partition=urgent", "--nodes=2", "--ntasks-per-node=2", "--output=/dev/null", "--wrap=true")
    urgent = user.cluster.ask("sbatch", "--parsable", *options).strip()
    assert user.cluster.ended(urgent, *ids) == ["COMPLETED", "COMPLETED"], user.log(name)
    assert user.cluster.fact(ids[0], "Restarts") == "3", user.log(name)
    return name


def rank_of(name: str, rank: int) -> int:
    """Return the id of the process of a rank of a run."""
    for process in processes():
        is_rank_of_run = process.words[1:4] == ["-m", "e4t", "pretrain"] and any(
            f"/{name}/" in word for word in process.words
        )
        if is_rank_of_run and process.environment["RANK"] == str(rank):
            return process.pid
    raise AssertionError(f"no rank {rank} of {name}")


def test_an_interrupted_run_ends_with_the_same_weights(user: User, interrupted: str) -> None:
    assert all(f"({reason}); checkpoint saved" in user.log(interrupted) for reason in ("SIGUSR2", "SIGTERM"))
    assert same(user.weights(interrupted), user.weights("uninterrupted"))


def test_mlflow_has_one_run_for_all_attempts(user: User, interrupted: str) -> None:
    (run,) = user.tracked(interrupted)
    assert (run.data.tags["e4t.stage"], run.info.status) == ("pretrain", "FINISHED")


def test_mlflow_has_system_metrics_of_each_node(user: User, interrupted: str) -> None:
    (run,) = user.tracked(interrupted)
    names = [name.split("/")[1] for name in run.data.metrics if name.startswith("system/")]
    assert set(names) == {"n1", "n2"}


def test_a_run_that_loses_a_node_waits_for_it_and_ends_with_the_same_weights(user: User) -> None:
    (ids,) = user.submit("lost-node", "pretrain").values()
    user.until_steps("lost-node", 3)
    user.cluster.lose("n2")
    user.cluster.soon(lambda: user.cluster.states(*ids) == ["PENDING"])
    user.cluster.find("n2")
    assert user.cluster.ended(*ids) == ["COMPLETED"], user.log("lost-node")
    assert user.cluster.fact(ids[0], "Restarts") == "1"
    assert same(user.weights("lost-node"), user.weights("uninterrupted"))


def test_a_configuration_error_is_not_requeued(user: User) -> None:
    changed = user.job.recipe["pretrain"] | {"learning_rate": 0.5}
    (ids,) = user.submit("uninterrupted", "pretrain", pretrain=changed).values()
    assert user.cluster.ended(*ids) == ["FAILED"]
    assert user.cluster.fact(ids[0], "ExitCode") == "78:0"
    assert user.cluster.fact(ids[0], "Restarts") == "0"


def test_a_cancelled_run_stays_cancelled(user: User) -> None:
    (ids,) = user.submit("cancelled", "pretrain").values()
    user.until_steps("cancelled", 1)
    user.cluster.ask("scancel", ids[0])
    assert user.cluster.ended(*ids) == ["CANCELLED"]
    assert user.cluster.fact(ids[0], "Restarts") == "0"


def test_an_array_with_a_failing_shard_stops_the_chain_until_it_is_submitted_again(user: User) -> None:
    shards = user.job.folder / "repaired"
    data = user.job.recipe["data"] | {"output": str(shards)}
    blocking_folder = shards / ".e4t-prepare" / "drafts" / "train-000001.tar"
    blocking_folder.mkdir(parents=True)
    submitted = user.submit("repaired", "prepare", data=data)
    assert len(submitted["prepare-work"]) == 2  # four tasks, of which the cluster allows three per array
    states = user.cluster.ended(*(job for ids in submitted.values() for job in ids))
    assert (states[0], states[-1], states.count("FAILED")) == ("COMPLETED", "CANCELLED", 1)
    blocking_folder.rmdir()
    submitted = user.submit("repaired", "prepare", data=data)
    assert set(user.cluster.ended(*(job for ids in submitted.values() for job in ids))) == {"COMPLETED"}
    assert main(["prepare", "--verify", "--recipe", str(user.job.folder / "repaired.yaml")]) == 0


def test_killed_tasks_of_an_array_are_requeued_individually(user: User) -> None:
    kill_first_attempt = "[ ${SLURM_RESTART_COUNT:-0} = 0 ] && python=(bash -c 'kill -9 $$')"
    data = user.job.recipe["data"] | {"output": str(user.job.folder / "killed")}
    submitted = user.submit("killed", "prepare", "--site.setup", kill_first_attempt, data=data)
    jobs = [job for ids in submitted.values() for job in ids]
    assert set(user.cluster.ended(*jobs)) == {"COMPLETED"}, user.log("killed")
    restarts = [user.cluster.facts(job, "Restarts") for job in jobs]
    assert restarts == [["1"], ["1", "1", "1"], ["1"], ["1"]]


def test_the_whole_chain_ends_in_a_registered_release(user: User, capfd: pytest.CaptureFixture[str]) -> None:
    pretrain = user.job.recipe["pretrain"] | {"use_feature_cache": True, "max_steps": 4}
    submitted = user.submit(
        "chain",
        "all",
        "--",
        "--allow-dirty",  # the working tree may have uncommitted changes
        data=user.job.recipe["data"] | {"output": str(user.job.folder / "chain")},
        pretrain=pretrain,
        tune={"steps": 1, "batch_size": 2},
        sample={"num_inference_steps": 2},
        evaluate={"num_concepts": 1, "num_grid_concepts": 1, "num_prompts": 1, "steps": [0]},
    )
    jobs = ["prepare-plan", "prepare-work", "prepare-merge", "cache", "pretrain", "evaluate", "release"]
    assert list(submitted) == jobs
    states = user.cluster.ended(*(job for ids in submitted.values() for job in ids), seconds=600)
    assert set(states) == {"COMPLETED"}, user.log("chain")
    run = user.run("chain").path
    assert "registered: models:/chain/1" in user.log("chain")
    assert "Means over 1 held-out concepts" in (run / "release" / "README.md").read_text()
    capfd.readouterr()
    assert main(["status", str(run)]) == 0
    output = capfd.readouterr().out
    assert f"pretrain  {submitted['pretrain'][0]}  COMPLETED" in output
    assert "all 4 steps done" in output
