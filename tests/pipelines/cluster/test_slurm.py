"""Submissions to SLURM with fake programs; tests/cluster/test_slurm.py submits to a real SLURM."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from e4t_errors import ConfigError
from pipelines.cluster.jobs import Job, jobs_for_stage
from pipelines.cluster.slurm import (
    SlurmSite,
    job_status,
    read_job_script,
    render_site_script,
    render_submit_script,
    sbatch_calls,
)
from pipelines.cluster.submission import SubmittedJobs, list_submissions, load_submitted_jobs

FAKE_SBATCH = """#!/usr/bin/env python3
import json, sys
with open({log!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
print(sum(1 for _ in open({log!r})))
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
PYTHON = """#!/usr/bin/env python3
import json, sys
print(json.dumps(sys.argv[1:]))
"""
SCONTROL = """#!/usr/bin/env bash
[ "$1" = show ] && echo "JobId=7 JobState=$STATE Reason=None"
[ "$1" = requeue ] && echo "requeued $2"
"""
ARGUMENTS = some.text(some.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def sbatch_arguments(calls: list[Any], folder: Path) -> list[list[str]]:
    """Run the submit script, and return the arguments of each call of sbatch, whose job ids count from 1."""
    log = folder / "calls"
    log.unlink(missing_ok=True)
    program(folder, "sbatch", FAKE_SBATCH.format(log=str(log)))
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", render_submit_script(calls)], check=True, env=environment, capture_output=True)  # noqa: S603, S607 - our own command
    return [json.loads(line) for line in log.read_text().splitlines()]


def e4t_arguments(words: list[str], folder: Path, site: SlurmSite) -> list[str]:
    """Run the job script, and return the arguments that e4t gets."""
    for name, text in (("srun", SRUN), ("fake-python", PYTHON)):
        program(folder, name, text)
    (folder / "site.sh").write_text(render_site_script(site))
    (folder / "job.sbatch").write_text(read_job_script())
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    run = ["bash", str(folder / "job.sbatch"), str(folder), *words]
    done = subprocess.run(run, check=True, env=environment, capture_output=True, text=True)  # noqa: S603 - our own command
    return json.loads(done.stdout)[2:]


def requeued_job(folder: Path, code: int, **environment: str) -> str:
    """Run a job whose task exits with ``code``, and return the id of the job that is requeued, or an empty string."""
    fail = f"import sys; sys.exit({code})" if code < 129 else f"import os; os.kill(os.getpid(), {code - 128})"
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sleep", "#!/bin/sh\n"), ("fails", fail)):
        program(folder, name, text)
    site = SlurmSite(python=(sys.executable, str(folder / "fails")), requeues=2)
    (folder / "site.sh").write_text(render_site_script(site))
    (folder / "job.sbatch").write_text(read_job_script())
    known = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "STATE": "RUNNING"}
    run = ["bash", str(folder / "job.sbatch"), str(folder), "one", "release"]
    done = subprocess.run(run, check=False, env=os.environ | known | environment, capture_output=True, text=True)  # noqa: S603 - our own command
    assert done.returncode == code
    return done.stdout.removeprefix("requeued ").strip()


def options_of(calls: list[Any]) -> list[str]:
    (call,) = calls
    return list(call.options)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(word=ARGUMENTS)
def test_any_argument_reaches_e4t_unchanged(tmp_path: Path, word: str) -> None:
    site = SlurmSite(python=("fake-python",), setup=f"# {' '.join(word.split())}")
    calls = sbatch_calls([Job("release", "one", ("release", word))], site, tmp_path, word)
    (arguments,) = sbatch_arguments(calls, tmp_path)
    assert arguments[-1] == word
    assert e4t_arguments(["one", "release", word], tmp_path, site) == ["release", word]


@pytest.mark.parametrize(
    "name", ["it's", 'a "b"', "$(touch here)", "`id`", "two  words", "two\nlines", "100%", "back\\slash", "ü*?;&|<>"]
)
def test_a_recipe_with_special_characters_is_submitted_unchanged(
    recipe: Path, tmp_path: Path, e4t: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program(tmp_path, "sbatch", FAKE_SBATCH.format(log=str(tmp_path / "calls")))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    words = ["--name", name, "--data.domain", name, "--conditioning.templates", json.dumps([f"{name} *s"])]
    assert e4t("submit", "slurm", "--recipe", recipe, "--stage", "release", *words)[0] == 0
    (folder,) = list_submissions(tmp_path / "runs" / name)
    (arguments,) = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert arguments[-2:] == ["--recipe", str(folder / "recipe.yaml")]
    stored = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert [stored["name"], stored["data"]["domain"], stored["conditioning"]["templates"]] == [
        name,
        name,
        [f"{name} *s"],
    ]
    assert load_submitted_jobs(folder) == SubmittedJobs("slurm", {"release": ["1"]})


@pytest.mark.parametrize("code", [75, 137, 143])
def test_a_job_that_was_stopped_or_killed_is_requeued(tmp_path: Path, code: int) -> None:
    assert requeued_job(tmp_path, code) == "7"


@pytest.mark.parametrize("code", [0, 1, 78])
def test_a_job_that_succeeded_or_would_fail_again_is_not_requeued(tmp_path: Path, code: int) -> None:
    assert requeued_job(tmp_path, code) == ""


def test_a_job_is_requeued_at_most_as_often_as_the_site_allows(tmp_path: Path) -> None:
    assert requeued_job(tmp_path, 75, SLURM_RESTART_COUNT="1") == "7"
    assert requeued_job(tmp_path, 75, SLURM_RESTART_COUNT="2") == ""


def test_a_cancelled_job_is_not_requeued_but_a_preempted_one_is(tmp_path: Path) -> None:
    assert requeued_job(tmp_path, 75, STATE="CANCELLED") == ""
    assert requeued_job(tmp_path, 75, STATE="PREEMPTED") == "7"


def test_a_task_of_an_array_requeues_itself_and_not_the_array(tmp_path: Path) -> None:
    assert requeued_job(tmp_path, 137, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3") == "7_3"


def test_each_job_depends_on_every_part_of_the_job_before(tmp_path: Path) -> None:
    jobs = jobs_for_stage("prepare", nodes=1, array_size=5, use_feature_cache=False)
    arguments = sbatch_arguments(sbatch_calls(jobs, SlurmSite(), tmp_path, "run", max_array=3), tmp_path)
    dependencies = [next((word for word in words if word.startswith("--dependency")), "") for words in arguments]
    assert dependencies == ["", "--dependency=afterok:1", "--dependency=afterok:1", "--dependency=afterok:2:3"]


def test_an_array_above_the_limit_of_the_cluster_is_split_into_arrays_with_consecutive_ranks(tmp_path: Path) -> None:
    job = Job("cache", "array", ("cache",), 5)
    calls = sbatch_calls([job], SlurmSite(max_parallel_tasks=2), tmp_path, "run", max_array=3)
    assert [call.options[-1] for call in calls] == ["--array=0-2%1", "--array=0-1%1"]
    assert [call.command[2:5] for call in calls] == [("array", "0", "5"), ("array", "3", "5")]


def test_a_task_of_an_array_gets_its_rank_and_the_number_of_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    site = SlurmSite(python=("fake-python",))
    expected = ["cache", "--rank", "4", "--world-size", "8"]
    assert e4t_arguments(["array", "3", "8", "cache"], tmp_path, site) == expected


def test_training_has_a_task_per_device_and_a_warning_signal(tmp_path: Path) -> None:
    site = SlurmSite(devices_per_node=4, cpus_per_device=6, warn_seconds=90)
    words = options_of(sbatch_calls([Job("pretrain", "ranks", ("pretrain",), 2)], site, tmp_path, "run"))
    expected = ["--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=6", "--gpus-per-node=4", "--signal=USR2@90"]
    assert set(expected) <= set(words)


def test_torchrun_is_one_task_per_node_with_the_cores_of_all_devices(tmp_path: Path) -> None:
    site = SlurmSite(devices_per_node=4, cpus_per_device=6, launcher="torchrun")
    words = options_of(sbatch_calls([Job("pretrain", "ranks", ("pretrain",), 2)], site, tmp_path, "run"))
    assert {"--ntasks-per-node=1", "--cpus-per-task=24", "--gpus-per-node=4"} <= set(words)


def test_prepare_requests_no_gpu(tmp_path: Path) -> None:
    words = options_of(sbatch_calls([Job("prepare-plan", "one", ("prepare",))], SlurmSite(), tmp_path, "run"))
    assert not [word for word in words if word.startswith("--gpu")]


def test_each_task_runs_inside_the_container() -> None:
    site = SlurmSite(container="apptainer", image="e4t image.sif", mounts=("/data:/data",))
    here = Path.cwd()
    assert site.container_args == [
        "apptainer", "exec", "--nv", "--bind", f"{here}:{here},/data:/data", "--pwd", str(here), "e4t image.sif"
    ]  # fmt: skip


def test_a_container_without_an_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="container is pyxis and image is None"):
        SlurmSite(container="pyxis")


def test_a_dry_run_prints_every_file_and_writes_none(recipe: Path, e4t: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = e4t("submit", "slurm", "--recipe", recipe, "--stage", "release", "--dry-run")
    assert code == 0
    for text in (read_job_script(), render_site_script(SlurmSite()), "sbatch --parsable"):
        assert text in out
    assert not list_submissions(recipe.parent / "runs" / "small")


def test_shellcheck_accepts_the_submitted_scripts(recipe: Path, e4t: Callable[..., tuple[int, str, str]]) -> None:
    words = ["--recipe", recipe, "--stage", "all", "--dry-run"]
    out = e4t("submit", "slurm", *words)[1]
    submit = out.rpartition("submit.sh\n")[2]
    for text in (read_job_script(), submit):
        command = [str(Path(sys.executable).parent / "shellcheck"), "--shell=bash", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        assert (done.returncode, done.stdout) == (0, "")


def test_the_status_of_an_old_job_comes_from_the_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, "scontrol", "#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n")
    program(tmp_path, "sacct", "#!/bin/sh\nprintf 'COMPLETED\\nCOMPLETED\\nFAILED\\n'\n")
    assert job_status("7") == "2 COMPLETED, FAILED"
    program(tmp_path, "sacct", "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    assert job_status("7") == "no longer known to SLURM"


def test_without_sbatch_the_error_says_where_to_submit(
    recipe: Path, e4t: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = e4t("submit", "slurm", "--recipe", recipe, "--stage", "release")
    assert code == 1
    assert err.startswith("e4t: sbatch was not found")
