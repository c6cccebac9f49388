"""Behaviour of Slurm 22.05 and submitit that the launcher relies on or works around: one small experiment per fact."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import submitit
from builders.places import PYTHONPATH
from builders.waiting import wait_until
from slurm import payloads, witness
from slurm.cluster import NODES, Cluster
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths
from submitit.slurm.slurm import SlurmExecutor, SlurmInfoWatcher, SlurmJobEnvironment

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
CANCELLED = f"CANCELLED by {os.getuid()}"
SLURM_IS_AWAY = "Unable to contact slurm controller"


def becomes(look: Callable[[], object], expected: object) -> bool:
    """Poll until `look` returns the expected value, and assert that it does."""
    deadline = time.monotonic() + 180  # below the test's own time limit, so that a failure shows the last value
    while (actual := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert actual == expected
    return True


def sbatch(cluster: Cluster, *options: str, run: str = "true", output: Path = Path("/dev/null")) -> str:
    """Submit a job; return its id."""
    return cluster.run("sbatch", "--parsable", f"--output={output}", *options, f"--wrap={run}").strip()


def witnessed(num_s: float, log: Path) -> str:
    """Return the command of a job that logs what happens to it."""
    return f"srun {sys.executable} {witness.__file__} {num_s} {log}"


def whats(log: Path) -> list[str]:
    return [line.what for line in witness.seen(log)]


def queued(cluster: Cluster, job: str, field: str = "%T") -> str:
    """Return a job's field in squeue; empty if the job has ended or is unknown."""
    rows = [row.split(" ", 1) for row in cluster.run("squeue", "-h", "-r", "-o", f"%i {field}").splitlines()]
    return dict(rows).get(job, "")


def accounted(cluster: Cluster, job: str, *options: str) -> list[str]:
    """Return a job's states in sacct; empty if sacct does not know it (yet)."""
    return cluster.run("sacct", "-n", "-P", "-X", "-o", "State", "-j", job, *options).splitlines()


def controller_has_saved(cluster: Cluster, since: float) -> bool:
    """Return whether slurmctld has saved its jobs to disk since then, which it does at most every five seconds."""
    state = cluster.folder / "state" / "job_state"
    return state.exists() and state.stat().st_mtime > since


@pytest.fixture
def executor(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmExecutor:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)  # where the jobs find slurm.payloads
    return SlurmExecutor(tmp_path / "jobs")


# -- the test cluster -----------------------------------------------------------------------------------------------------


def test_every_node_runs_a_job_and_assigns_its_gpus(cluster: Cluster, tmp_path: Path) -> None:
    output = cluster.run("srun", "--nodes=4", "printenv", "SLURMD_NODENAME")
    assert sorted(output.split()) == sorted(NODES)
    jobs = [
        sbatch(
            cluster,
            "--gpus-per-node=1",
            f"--nodelist={NODES[0]}",
            run=f"printenv CUDA_VISIBLE_DEVICES >{tmp_path}/{n}; sleep 2",
        )
        for n in range(2)
    ]
    wait_until(lambda: all(accounted(cluster, job) == ["COMPLETED"] for job in jobs))
    assert sorted((tmp_path / str(n)).read_text().strip() for n in range(2)) == ["0", "1"]


def test_jobs_that_request_part_of_a_gpu_share_one(cluster: Cluster, tmp_path: Path) -> None:
    """Shards, as requested by a placement file (`gres`): four per GPU here, each running one job, all at once."""
    script = (
        "srun printenv CUDA_VISIBLE_DEVICES >{folder}/{n}; date +%s.%N >>{folder}/{n}; sleep 4; date +%s.%N >>{folder}/{n}"
    )
    jobs = [
        sbatch(cluster, "--gres=shard:1", f"--nodelist={NODES[0]}", run=script.format(folder=tmp_path, n=n))
        for n in range(4)
    ]
    wait_until(lambda: all(accounted(cluster, job) == ["COMPLETED"] for job in jobs))
    gpus, starts, ends = zip(*((tmp_path / str(n)).read_text().split() for n in range(4)), strict=True)
    assert set(gpus) == {"0"}
    assert max(map(float, starts)) < min(map(float, ends))


# -- cancelled, unknown, refused -----------------------------------------------------------------------------------------


def test_pending_array_tasks_that_are_cancelled_are_missing_from_sacct(cluster: Cluster) -> None:
    job = sbatch(cluster, "--array=0-2%1", run="sleep 30")
    assert becomes(lambda: [queued(cluster, f"{job}_{task}") for task in range(3)], ["RUNNING", "PENDING", "PENDING"])
    for task in (1, 2):
        cluster.run("scancel", f"{job}_{task}")
    assert [queued(cluster, f"{job}_{task}") for task in range(3)] == ["RUNNING", "", ""]
    # While one task runs, sacct has one row for both, for the array as a whole or for a range.
    wait_until(lambda: CANCELLED in accounted(cluster, job))
    assert not {f"{job}_1", f"{job}_2"} & set(cluster.run("sacct", "-n", "-P", "-X", "-o", "JobID", "-j", job).split())
    assert [accounted(cluster, f"{job}_{task}") for task in (1, 2)] == [[], []]


def test_sacct_names_the_user_who_cancelled_a_running_job(cluster: Cluster) -> None:
    job = sbatch(cluster, run="sleep 30")
    assert becomes(lambda: queued(cluster, job), "RUNNING")
    cluster.run("scancel", job)
    assert becomes(lambda: accounted(cluster, job), [CANCELLED])


def test_a_pending_single_job_that_is_cancelled_stays_in_sacct(cluster: Cluster) -> None:
    job = sbatch(cluster, "--hold")
    cluster.run("scancel", job)
    assert becomes(lambda: accounted(cluster, job), [CANCELLED])


def test_a_job_can_submit_a_job_and_both_are_found_by_name(cluster: Cluster, tmp_path: Path) -> None:
    inner = f"sbatch --output=/dev/null --job-name=inner --wrap='echo $SLURM_JOB_NAME >{tmp_path}/said'"
    (tmp_path / "outer").write_text(f"#!/bin/sh\n{inner}\n")
    sbatch(cluster, "--job-name=outer", run=f"sh {tmp_path}/outer")
    for name in ("outer", "inner"):
        find = ("sacct", "-n", "-P", "-X", "-o", "State", "--name", name)
        assert becomes(lambda find=find: cluster.run(*find).split(), ["COMPLETED"])  # type: ignore[misc]
    assert (tmp_path / "said").read_text() == "inner\n"


def test_squeue_fails_for_one_unknown_job_but_not_for_one_of_several(cluster: Cluster) -> None:
    job, unknown = sbatch(cluster, "--hold"), "1"
    with pytest.raises(subprocess.CalledProcessError) as error:
        cluster.run("squeue", "-h", "-j", unknown)
    assert "Invalid job id specified" in error.value.stderr
    assert cluster.run("squeue", "-h", "-o", "%i", "-j", f"{unknown},{job}").split() == [job]
    assert accounted(cluster, unknown) == []
    cluster.run("scancel", unknown)  # no error


def test_impossible_requests_and_unknown_partitions_are_refused_at_once(cluster: Cluster) -> None:
    for options, text in (
        (["--partition=nosuch"], "Invalid partition name specified"),
        (["--gpus-per-node=3"], "Requested node configuration is not available"),
        (["--mem=1T"], "Requested node configuration is not available"),
    ):
        with pytest.raises(subprocess.CalledProcessError) as error:
            sbatch(cluster, *options)
        assert text in error.value.stderr


def test_a_job_submitted_with_no_requeue_cannot_requeue_itself(cluster: Cluster) -> None:
    job = sbatch(cluster, "--no-requeue", run="sleep 30")
    assert becomes(lambda: queued(cluster, job), "RUNNING")
    with pytest.raises(subprocess.CalledProcessError) as error:
        cluster.run("scontrol", "requeue", job)
    assert "disabled" in error.value.stderr


def test_a_job_that_a_node_cannot_start_is_held_until_it_is_released(cluster: Cluster) -> None:
    with cluster.broken_node(NODES[0]):
        job = sbatch(cluster, f"--nodelist={NODES[0]}")
        assert becomes(lambda: queued(cluster, job, "%T %r"), "PENDING launch failed requeued held")
    assert cluster.run("sinfo", "-h", "-n", NODES[0], "-p", "cpu", "-o", "%T").strip() == "drained"
    assert becomes(lambda: accounted(cluster, job), ["REQUEUED"])
    cluster.run("scontrol", "update", f"NodeName={NODES[0]}", "State=RESUME")
    cluster.run("scontrol", "release", job)
    assert becomes(lambda: accounted(cluster, job), ["COMPLETED"])


# -- unresponsive daemons -------------------------------------------------------------------------------------------------


def test_without_a_controller_commands_fail_within_seconds_and_jobs_keep_running(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = sbatch(cluster, run=witnessed(8, log))
    wait_until(lambda: "start" in whats(log))
    running_since = time.time()
    wait_until(lambda: controller_has_saved(cluster, running_since))
    with cluster.without("slurmctld"):
        commands = [
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            for command in (["sbatch", "--wrap=true"], ["squeue"], ["scancel", job])
        ]
        for refused in commands:
            assert SLURM_IS_AWAY in refused.communicate()[1]
            assert refused.returncode != 0
        wait_until(lambda: "end" in whats(log))
    assert becomes(lambda: accounted(cluster, job), ["COMPLETED"])


def test_a_controller_that_is_killed_forgets_a_new_job_ends_it_and_reuses_its_id(cluster: Cluster, tmp_path: Path) -> None:
    log, before = tmp_path / "log", time.time()
    sbatch(cluster, "--hold")
    wait_until(lambda: controller_has_saved(cluster, before))
    forgotten = sbatch(cluster, run=witnessed(60, log))
    wait_until(lambda: "start" in whats(log) and accounted(cluster, forgotten))
    cluster.kill_daemon("slurmctld")
    cluster.start_daemon("slurmctld")
    assert queued(cluster, forgotten) == ""
    assert accounted(cluster, forgotten)[0] in ("PENDING", "RUNNING")  # and stays in that state
    wait_until(lambda: witness.seen(log)[-1].time_s < time.time() - 2)  # it no longer writes
    assert "end" not in whats(log)
    assert sbatch(cluster, "--hold", "--job-name=next") == forgotten
    assert queued(cluster, forgotten, "%j") == "next"
    assert becomes(lambda: len(accounted(cluster, forgotten, "--duplicates")), 2)


def test_accounting_that_was_down_responds_before_it_has_caught_up(cluster: Cluster) -> None:
    with cluster.without("slurmdbd"):
        job = sbatch(cluster)
        with pytest.raises(subprocess.CalledProcessError) as error:
            accounted(cluster, job)
        assert "Problem talking to the database" in error.value.stderr
        assert becomes(lambda: cluster.run("squeue", "-h", "-t", "all", "-o", "%T", "-j", job).strip(), "COMPLETED")
    assert accounted(cluster, job) == []
    assert becomes(lambda: accounted(cluster, job), ["COMPLETED"])


def test_accounting_that_hangs_blocks_only_sacct(cluster: Cluster) -> None:
    with cluster.frozen("slurmdbd"):
        job = sbatch(cluster)
        with pytest.raises(subprocess.TimeoutExpired):
            cluster.run("sacct", "-j", job, timeout_s=3)
        assert becomes(lambda: cluster.run("squeue", "-h", "-t", "all", "-o", "%T", "-j", job).strip(), "COMPLETED")


# -- running jobs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fates:
    """Logs of three jobs that ran at once, and all of their states in sacct."""

    limited: list[witness.Seen]
    lost: list[witness.Seen]
    lost_states: list[str]
    preempted: list[witness.Seen]
    preempted_states: list[str]


@pytest.fixture(scope="module")
def fates(_slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fates]:
    """One job gets close to its time limit, one loses its slurmd, one is preempted. All have 90 s of work."""
    cluster, folder = _slurm, tmp_path_factory.mktemp("fates")
    logs = {name: folder / name for name in ("limited", "lost", "preempted")}
    sbatch(cluster, "--time=1", "--signal=USR2@20", f"--nodelist={NODES[0]}", run=witnessed(90, logs["limited"]))
    lost = sbatch(cluster, f"--exclude={NODES[0]},{NODES[2]}", run=witnessed(90, logs["lost"]))
    preempted = sbatch(
        cluster,
        *("--partition=preempt", f"--nodelist={NODES[2]}", "--cpus-per-task=4", "--signal=USR2@30"),
        run=witnessed(90, logs["preempted"]),
    )
    wait_until(lambda: all("start" in whats(log) for log in logs.values()))
    cluster.kill_daemon(queued(cluster, lost, "%N"))
    sbatch(cluster, f"--nodelist={NODES[2]}", "--cpus-per-task=4")
    wait_until(lambda: "SIGUSR2" in whats(logs["limited"]))
    wait_until(lambda: all(witness.seen(logs[name])[-1].num_requeues for name in ("lost", "preempted")))
    time.sleep(1)
    states = {job: accounted(cluster, job, "--duplicates") for job in (lost, preempted)}
    yield Fates(
        limited=witness.seen(logs["limited"]),
        lost=witness.seen(logs["lost"]),
        lost_states=states[lost],
        preempted=witness.seen(logs["preempted"]),
        preempted_states=states[preempted],
    )
    cluster.restore()


def test_the_signal_before_the_time_limit_comes_up_to_half_a_minute_early(fates: Fates) -> None:
    start, signal = fates.limited[0], next(line for line in fates.limited if line.what == "SIGUSR2")
    assert 60 - 20 - 31 < signal.time_s - start.time_s < 60 - 20 + 3


def test_a_signal_reaches_every_process_of_the_step_and_kills_those_without_a_handler(fates: Fates) -> None:
    assert f"child {-12}" in [line.what for line in fates.limited]


def test_a_preempted_job_is_signalled_then_killed_then_requeued(fates: Fates) -> None:
    first = [line for line in fates.preempted if line.num_requeues == 0]
    order = [line.what for line in first if line.what.startswith("SIG")]
    assert order[0] == "SIGUSR2"
    assert "SIGTERM" in order
    assert "end" not in [line.what for line in first]
    assert fates.preempted[-1].num_requeues == 1
    assert fates.preempted_states[0] == "PREEMPTED"


def test_a_job_whose_node_is_lost_is_requeued_while_its_old_process_keeps_running(fates: Fates) -> None:
    again = next(line for line in fates.lost if line.num_requeues == 1)
    assert [line for line in fates.lost if line.num_requeues == 0 and line.time_s > again.time_s]
    assert fates.lost_states[0] == "NODE_FAIL"


def test_submitit_considers_a_requeued_job_of_a_lost_node_done(cluster: Cluster) -> None:
    job = sbatch(cluster, run="sleep 30")
    assert becomes(lambda: queued(cluster, job), "RUNNING")
    cluster.run("scontrol", "update", f"NodeName={queued(cluster, job, '%N')}", "State=DOWN", "Reason=test")
    # The database may say PENDING again a moment later.
    assert becomes(lambda: (SlurmInfoWatcher().is_done(job, mode="force"), queued(cluster, job)), (True, "PENDING"))


def test_a_job_over_its_memory_limit_fails_and_only_its_log_says_why(cluster: Cluster, tmp_path: Path) -> None:
    greedy = "import time; x = bytearray(400_000_000); time.sleep(30)"
    job = sbatch(cluster, "--mem=100M", run=f"srun {sys.executable} -c '{greedy}'", output=tmp_path / "log")
    assert becomes(lambda: accounted(cluster, job), ["FAILED"])
    assert "exceeded memory limit" in (tmp_path / "log").read_text()


# -- submitit ---------------------------------------------------------------------------------------------------------------


def test_submitit_mistakes_an_old_result_with_the_same_id_for_the_new_one(executor: SlurmExecutor, cluster: Cluster) -> None:
    following = int(sbatch(cluster, "--hold")) + 1
    executor.folder.mkdir()
    (executor.folder / f"{following}_0_result.pkl").write_bytes(pickle.dumps(("success", "of last year")))
    executor.update_parameters(additional_parameters={"hold": True})
    job = executor.submit(payloads.wait, 0)
    assert job.job_id == str(following)
    assert job.result() == "of last year"


def test_submitit_also_checkpoints_in_data_loader_workers(executor: SlurmExecutor, cluster: Cluster, tmp_path: Path) -> None:
    def processes(what: str) -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split()[1] for line in lines if line.startswith(what)]

    log = tmp_path / "log"
    job = executor.submit(payloads.Loading(log, num_workers=2))
    wait_until(lambda: len(processes("worker")) == 2)
    cluster.run("scancel", "--signal=USR2", job.job_id)
    wait_until(lambda: set(processes("checkpoint")) & set(processes("worker")))


def test_a_file_left_by_an_interrupted_checkpoint_makes_every_later_one_fail(
    executor: SlurmExecutor, cluster: Cluster, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    job = executor.submit(payloads.Loading(log, num_workers=0))
    wait_until(lambda: log.exists())
    pickled = job.paths.submitted_pickle
    pickled.with_suffix(f"{pickled.suffix}.save_tmp").touch()
    cluster.run("scancel", "--signal=USR2", job.job_id)
    with pytest.raises(FailedJobError, match="A temporary saved file already exists"):
        job.result()


def test_submitit_counts_every_preemption_of_a_ten_minute_job_as_a_timeout(tmp_path: Path) -> None:
    for timeout_min, timed_out in ((10, True), (11, False)):
        delayed = DelayedSubmission(payloads.wait, 0)
        delayed.set_timeout(timeout_min, 3)
        handler = SignalHandler(SlurmJobEnvironment(), JobPaths(tmp_path, job_id="1"), delayed)
        assert handler.has_timed_out() is timed_out


def test_a_cancelled_submitit_job_runs_until_it_is_killed(executor: SlurmExecutor, cluster: Cluster) -> None:
    job = executor.submit(payloads.wait, 30)
    wait_until(lambda: "waiting" in str(job.stdout()))
    cancelled_s = time.monotonic()
    cluster.run("scancel", job.job_id)
    wait_until(lambda: not queued(cluster, job.job_id))
    assert time.monotonic() - cancelled_s > 3  # KillWait
    assert "Bypassing signal SIGTERM" in str(job.stderr())


def test_ranks_outlive_one_that_dies_unless_srun_kills_them(executor: SlurmExecutor, cluster: Cluster) -> None:
    executor.update_parameters(ntasks_per_node=2)
    jobs = [executor.submit(payloads.first_waits_others_fail, 20)]
    executor.update_parameters(srun_args=["--kill-on-bad-exit=1"])
    jobs.append(executor.submit(payloads.first_waits_others_fail, 20))
    wait_until(lambda: not queued(cluster, jobs[1].job_id))
    assert queued(cluster, jobs[0].job_id) == "RUNNING"
    assert "boom" in str(jobs[1].task(1).exception())


def test_a_job_inherits_the_drivers_environment(executor: SlurmExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert executor.submit(payloads.variable, "PREFECT_API_URL").result() == "http://127.0.0.1:1/api"


def test_a_clean_environment_loses_the_clusters_configuration(executor: SlurmExecutor) -> None:
    with submitit.helpers.clean_env(), pytest.raises((FailedJobError, FailedSubmissionError)):
        executor.submit(payloads.wait, 0)
