"""What `e4t submit slurm` sends, run by a real SLURM on two nodes."""

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
    """Somebody who submits runs of a recipe."""

    cluster: SlurmCluster
    job: Job

    def submit(self, name: str, stage: str, *words: str, **changes: Any) -> dict[str, list[str]]:
        """Send a stage of the run of that name, on two nodes; gives the ids of its jobs."""
        site = self.job.folder / "site.yaml"
        site.write_text(yaml.safe_dump(SITE))
        recipe = self.job.folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(self.job.recipe | {"name": name} | changes))
        asked = [
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
        assert main(["submit", "slurm", *asked]) == 0
        return dict(load_submitted_jobs(list_submissions(self.run(name).path)[-1]).jobs)

    def run(self, name: str) -> RunFolder:
        """What a run has left so far."""
        return self.job.run(name)

    def weights(self, name: str) -> dict[str, Any]:
        """What a run has learned after all of its steps."""
        return load_file(self.run(name).weights(self.job.steps) / "weight_offsets.safetensors")

    def log(self, name: str) -> str:
        """Everything that a run's jobs have printed."""
        return "\n".join(path.read_text() for path in self.run(name).path.glob("submissions/*/logs/*.log"))

    def until_steps(self, name: str, more: int) -> None:
        """Wait until training has done so many steps more."""
        before = len(self.run(name).steps())
        self.cluster.soon(lambda: len(self.run(name).steps()) >= before + more, 300)

    def until_restarted(self, job: str, times: int) -> None:
        """Wait until a job runs again."""
        self.cluster.soon(lambda: self.cluster.fact(job, "Restarts") == str(times), 120)
        self.cluster.soon(lambda: self.cluster.states(job) == ["RUNNING"], 120)

    def tracked(self, name: str) -> list[Any]:
        """What MLflow has of that run."""
        client = connect(self.job.folder / "runs")
        found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
        return [run for run in found if run.info.run_name.split()[-1] == name]


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


@pytest.fixture(scope="session", params=["srun", "torchrun"])
def struck(user: User, request: pytest.FixtureRequest) -> str:
    """A run that is warned, then loses a rank, then gives way to a partition of higher priority, and has ended."""
    name = f"struck-{request.param}"
    (ids,) = user.submit(name, "pretrain", "--site.launcher", request.param).values()
    user.until_steps(name, 3)
    user.cluster.ask("scancel", "--signal=USR2", ids[0])
    user.until_restarted(ids[0], 1)
    user.until_steps(name, 1)
    os.kill(rank_of(name, 1), signal.SIGKILL)
    user.until_restarted(ids[0], 2)
    user.until_steps(name, 1)
    asked = ("--partition=urgent", "--nodes=2", "--ntasks-per-node=2", "--output=/dev/null", "--wrap=true")
    urgent = user.cluster.ask("sbatch", "--parsable", *asked).strip()
    assert user.cluster.ended(urgent, *ids) == ["COMPLETED", "COMPLETED"], user.log(name)
    assert user.cluster.fact(ids[0], "Restarts") == "3", user.log(name)
    return name


def rank_of(name: str, rank: int) -> int:
    """The process that trains as that rank of a run."""
    for process in processes():
        ours = process.words[1:4] == ["-m", "e4t", "pretrain"] and any(f"/{name}/" in word for word in process.words)
        if ours and process.environment["RANK"] == str(rank):
            return process.pid
    raise AssertionError(f"no rank {rank} of {name}")


def test_a_run_that_is_warned_killed_and_preempted_ends_with_the_same_weights(user: User, struck: str) -> None:
    assert all(f"({why}); everything is saved" in user.log(struck) for why in ("SIGUSR2", "SIGTERM"))
    assert same(user.weights(struck), user.weights("undisturbed"))


def test_mlflow_has_one_run_however_often_it_is_requeued(user: User, struck: str) -> None:
    (run,) = user.tracked(struck)
    assert (run.data.tags["e4t.stage"], run.info.status) == ("pretrain", "FINISHED")


def test_mlflow_is_told_how_busy_each_node_is(user: User, struck: str) -> None:
    (run,) = user.tracked(struck)
    names = [name.split("/")[1] for name in run.data.metrics if name.startswith("system/")]
    assert set(names) == {"n1", "n2"}


def test_a_run_that_loses_a_node_waits_for_it_and_ends_with_the_same_weights(user: User) -> None:
    (ids,) = user.submit("bereft", "pretrain").values()
    user.until_steps("bereft", 3)
    user.cluster.lose("n2")
    user.cluster.soon(lambda: user.cluster.states(*ids) == ["PENDING"])
    user.cluster.find("n2")
    assert user.cluster.ended(*ids) == ["COMPLETED"], user.log("bereft")
    assert user.cluster.fact(ids[0], "Restarts") == "1"
    assert same(user.weights("bereft"), user.weights("undisturbed"))


def test_a_wrong_recipe_is_not_tried_again(user: User) -> None:
    changed = user.job.recipe["pretrain"] | {"learning_rate": 0.5}
    (ids,) = user.submit("undisturbed", "pretrain", pretrain=changed).values()
    assert user.cluster.ended(*ids) == ["FAILED"]
    assert user.cluster.fact(ids[0], "ExitCode") == "78:0"
    assert user.cluster.fact(ids[0], "Restarts") == "0"


def test_a_cancelled_run_stays_cancelled(user: User) -> None:
    (ids,) = user.submit("cancelled", "pretrain").values()
    user.until_steps("cancelled", 1)
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


def test_tasks_of_an_array_that_are_killed_are_requeued_each_by_itself(user: User) -> None:
    killed_at_first = "[ ${SLURM_RESTART_COUNT:-0} = 0 ] && python=(bash -c 'kill -9 $$')"
    data = user.job.recipe["data"] | {"output": str(user.job.folder / "shot")}
    sent = user.submit("shot", "prepare", "--site.setup", killed_at_first, data=data)
    jobs = [job for ids in sent.values() for job in ids]
    assert set(user.cluster.ended(*jobs)) == {"COMPLETED"}, user.log("shot")
    restarts = [user.cluster.facts(job, "Restarts") for job in jobs]
    assert restarts == [["1"], ["1", "1", "1"], ["1"], ["1"]]


def test_the_whole_chain_ends_in_a_registered_release(user: User, capfd: pytest.CaptureFixture[str]) -> None:
    pretrain = user.job.recipe["pretrain"] | {"use_feature_cache": True, "max_steps": 4}
    sent = user.submit(
        "chain",
        "all",
        "--",
        "--allow-dirty",  # a developer's tree is changed
        data=user.job.recipe["data"] | {"output": str(user.job.folder / "chain")},
        pretrain=pretrain,
        tune={"steps": 1, "batch_size": 2},
        sample={"num_inference_steps": 2},
        evaluate={"num_concepts": 1, "num_grid_concepts": 1, "num_prompts": 1, "steps": [0]},
    )
    jobs = ["prepare-plan", "prepare-work", "prepare-merge", "cache", "pretrain", "evaluate", "release"]
    assert list(sent) == jobs
    states = user.cluster.ended(*(job for ids in sent.values() for job in ids), seconds=600)
    assert set(states) == {"COMPLETED"}, user.log("chain")
    run = user.run("chain").path
    assert "registered: models:/chain/1" in user.log("chain")
    assert "Means over 1 held-out concepts" in (run / "release" / "README.md").read_text()
    capfd.readouterr()
    assert main(["status", str(run)]) == 0
    said = capfd.readouterr().out
    assert f"pretrain  {sent['pretrain'][0]}  COMPLETED" in said
    assert "all 4 steps done" in said
