"""The Slurm launcher with fake commands that print real output: the ways in which a cluster misleads, one at a time."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from builders.fake_execute import fake_stage

from midstudy.launch import clock
from midstudy.launch.job_file import Job, JobStage, is_cancelled, job_log, job_name, write_end, write_job
from midstudy.launch.launcher import Cause, Exit
from midstudy.launch.log import stage_log
from midstudy.launch.process import this_process
from midstudy.launch.slurm.batch_file import read_submission
from midstudy.launch.slurm.commands import SlurmAwayError, SlurmCommands, SlurmRefusedError
from midstudy.launch.slurm.launcher import LEAVES_WITHIN_S, LOST_AFTER_S, SACCT_AWAY_S, SETTLE_S, SlurmLauncher
from midstudy.launch.slurm.placement_file import Jobs, PlacementFile
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from midstudy.train.placement import Placement

POLL_S = 5.0


@dataclass
class FakeSlurm(SlurmCommands):
    """`listed` and `accounted` map a job's id to its state in squeue and sacct; `errors` maps a command to an exception."""

    listed: dict[str, str] = field(default_factory=dict)
    accounted: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    reason: str = "None"
    errors: dict[str, Exception] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    number: int = 100

    def run(self, command: Sequence[str], *, timeout_s: float = 30.0) -> str:
        self.asked.append(list(command))
        if command[0] == "sbatch" and not isinstance(self.errors.get("sbatch"), SlurmRefusedError):
            self._submit(Path(command[-1]).read_text())
        if (error := self.errors.get(command[0])) is not None:
            raise error
        if command[0] == "sbatch":
            return f"{self.number}\n"
        if command[0] == "squeue":
            return "".join(
                f"{job_id}|{state}|n1|0|{self.reason}|{self.names[job_id]}|\n"
                for job_id, state in self.listed.items()
                if state
            )
        if command[0] == "sacct":
            return "".join(f"{job_id}|{state}|0:0|n1|{self.names[job_id]}\n" for job_id, state in self.accounted.items())
        return ""

    def _submit(self, script: str) -> None:
        self.number += 1
        array = re.search(r"--array=0-(\d+)", script)
        ids = [f"{self.number}_{index}" for index in range(int(array[1]) + 1)] if array else [str(self.number)]
        name = re.search(r"--job-name=(\S+)", script)
        assert name is not None
        for job_id in ids:
            self.listed[job_id], self.names[job_id] = "PENDING", name[1]

    def count(self, name: str) -> int:
        return sum(command[0] == name for command in self.asked)

    @property
    def cancelled(self) -> list[list[str]]:
        """The arguments of each scancel, except the required `--name`."""
        commands = [command[1:] for command in self.asked if command[0] == "scancel"]
        assert all(any(word.startswith("--name=") for word in words) for words in commands)  # the id may be another job's
        return [[word for word in words if not word.startswith("--name=")] for words in commands]


class Clock:
    """A clock that stands still until a test or a sleep advances it."""

    def __init__(self) -> None:
        self.now = 1e9

    def pass_by(self, duration_s: float) -> None:
        self.now += duration_s


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticking = Clock()
    monkeypatch.setattr(clock, "now", lambda: ticking.now)
    monkeypatch.setattr(clock, "monotonic", lambda: ticking.now)
    monkeypatch.setattr(clock, "sleep", ticking.pass_by)
    return ticking


@dataclass
class Given:
    """A store, a fake Slurm, and the stages of the test's jobs."""

    store: Store
    slurm: FakeSlurm = field(default_factory=FakeSlurm)
    stages: dict[str, Stage] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    file: PlacementFile = field(default_factory=lambda: PlacementFile(jobs=Jobs(poll_s=POLL_S)))

    def launcher(self) -> SlurmLauncher:
        """Return a launcher that knows only what is on disk, like that of a new driver."""
        return SlurmLauncher(self.store, self.file, self.stages, commands=self.slurm, on_notice=self.notices.append)

    def job(self, label: str, role: str = "sft") -> Job:
        stage = fake_stage(label, role=role)
        self.store.request(stage)
        self.stages[stage.id] = stage
        job = Job(
            name=job_name(stage.id),
            study="study",
            stages=(JobStage(id=stage.id, start_from=None, keeps_optimizer=False),),
            backend="slurm",
            placement=Placement(),
            entry="builders.fake_execute:execute_stage",
            driver=this_process(),
        )
        write_job(self.store, job)
        return job

    def id_of(self, job: Job) -> str | None:
        submission = read_submission(self.store, job.name)
        return submission.id if submission is not None else None


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(Store.open(tmp_path / "a 'store'", create=True))


# -- submitting -------------------------------------------------------------------------------------------------------


def test_jobs_with_equal_placements_become_one_array(given: Given) -> None:
    given.file = PlacementFile({(None, None): {"partition": "gpu"}, ("evaluation", None): {"partition": "cpu"}})
    leaves = [given.job(f"leaf{number}") for number in range(3)]
    other = given.job("other", role="evaluation")
    assert given.launcher().submit([*leaves, other]) == {}
    assert [given.id_of(job) for job in (*leaves, other)] == ["101_0", "101_1", "101_2", "102"]
    assert given.slurm.count("sbatch") == 2


def test_the_batch_script_requests_what_the_placement_file_says(given: Given) -> None:
    fields = {
        "partition": "gpu",
        "account": "us",
        "qos": "long",
        "constraint": "a100|h100",
        "nodes": 2,
        "gpus_per_node": 4,
        "num_ranks": 8,
        "cpus_per_task": 6,
        "memory_gb": 1.5,
        "time_limit_min": 90,
        "sbatch": (("exclude", "n7"), ("exclusive", True)),
        "setup": ("module load cuda",),
    }
    given.file = PlacementFile({(None, None): fields})
    job = given.job("one")
    given.launcher().submit([job])
    script = given.slurm.asked[0][-1]
    lines = Path(script).read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert asked == {
        "account=us", "comment='midstudy study'", "constraint='a100|h100'", "cpus-per-task=6", "exclude=n7", "exclusive",
        "gpus-per-node=4", f"job-name={job.name}", "mem=1536M", "nodes=2", "ntasks-per-node=4", "open-mode=append",
        "output=/dev/null", "partition=gpu", "qos=long", "requeue", "signal=USR2@90", "time=90", "wckey=submitit",
    }  # fmt: skip
    assert lines.index("module load cuda") < next(number for number, line in enumerate(lines) if line.startswith("srun "))
    assert given.launcher().placement_for([given.stages[job.stage_ids[0]]]).num_ranks == 8


def test_small_jobs_request_part_of_a_gpu_as_the_placement_file_says(given: Given) -> None:
    fields = {"device": "cuda", "sbatch": (("gres", "shard:1"),)}
    given.file = PlacementFile({(None, None): fields})
    job = given.job("one")
    given.launcher().submit([job])
    lines = Path(given.slurm.asked[0][-1]).read_text().splitlines()
    assert "#SBATCH --gres=shard:1" in lines
    assert not any("gpus-per-node" in line for line in lines)


def test_the_pickle_is_written_before_submission_and_holds_only_a_path_and_a_name(given: Given) -> None:
    job = given.job("one")
    folder = given.store.paths.job_submitit(job.name)
    seen: list[bytes] = []
    given.slurm._submit = lambda script: seen.append((folder / "submitted.pkl").read_bytes())  # type: ignore[method-assign]
    given.launcher().submit([job])
    (pickled,) = seen
    assert b"midstudy.launch.job" in pickled
    assert str(given.store.root).encode() in pickled
    assert len(pickled) < 500 + len(str(given.store.root))
    script = (folder / "submission.sh").read_text()
    assert shlex.quote(str(folder)) in script
    assert "submitted.pkl" in script


@pytest.mark.parametrize(
    ("message", "may_pass"),
    [
        ("Batch job submission failed: Invalid partition name specified", False),
        ("Batch job submission failed: Requested node configuration is not available", False),
        ("Batch job submission failed: Invalid account or account/partition combination specified", False),
        ("Invalid --time specification", False),
        (
            "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time "
            "limits)",
            True,
        ),
        ("Slurm temporarily unable to accept job, sleeping and retrying", True),
        ("Batch job submission failed: Required partition not available (inactive or drain)", True),
    ],
)
def test_a_refusal_is_classified_as_temporary_or_permanent(given: Given, message: str, may_pass: bool) -> None:
    job = given.job("one")
    given.slurm.errors["sbatch"] = SlurmRefusedError(f"sbatch: sbatch: error: {message}")
    refusal = given.launcher().submit([job])[job.name]
    assert refusal.may_pass == may_pass
    assert message in refusal.text
    assert read_submission(given.store, job.name) is None
    del given.slurm.errors["sbatch"]
    assert given.launcher().submit([job]) == {}


def test_a_submission_without_an_answer_is_looked_up_before_it_is_repeated(given: Given, time: Clock) -> None:
    job, launcher = given.job("one"), given.launcher()
    given.slurm.errors["sbatch"] = SlurmAwayError("sbatch: no response within 30 s")
    assert launcher.submit([job])[job.name].may_pass
    del given.slurm.errors["sbatch"]
    time.pass_by(2.0)
    assert launcher.submit([job]) == {}
    assert given.id_of(job) == "101"
    assert given.slurm.count("sbatch") == 1


def test_a_submission_that_never_arrived_is_repeated_once_it_can_no_longer_arrive(given: Given, time: Clock) -> None:
    job, launcher = given.job("one"), given.launcher()
    given.slurm.errors["sbatch"] = SlurmAwayError("sbatch: no response within 30 s")
    launcher.submit([job])
    given.slurm.listed.clear()
    del given.slurm.errors["sbatch"]
    time.pass_by(LOST_AFTER_S - 1.0)
    assert "before it is submitted again" in launcher.submit([job])[job.name].text
    assert given.slurm.count("sbatch") == 1
    time.pass_by(2.0)
    assert launcher.submit([job]) == {}
    assert given.id_of(job) == "102"


def test_the_next_driver_finds_jobs_by_name_if_their_ids_were_not_written(given: Given) -> None:
    jobs = [given.job("one"), given.job("two")]
    given.slurm.errors["sbatch"] = SlurmAwayError("sbatch: no response within 30 s")  # as if the driver had died here
    given.launcher().submit(jobs)
    assert [given.id_of(job) for job in jobs] == [None, None]
    assert given.launcher().live(jobs) == {job.name for job in jobs}
    assert [given.id_of(job) for job in jobs] == ["101_0", "101_1"]


def test_an_id_reused_for_another_job_is_not_mistaken_for_ours(given: Given, time: Clock) -> None:
    job, launcher = given.job("one"), given.launcher()
    launcher.submit([job])
    given.slurm.listed = {"101": "RUNNING"}
    given.slurm.names = {"101": "another-users"}
    assert launcher.poll([job]) == {}
    ended = exits(launcher, job, time, LOST_AFTER_S + 2 * POLL_S)
    assert ended is not None
    assert ended.cause == "lost"


# -- polling ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def submitted(given: Given) -> tuple[Job, SlurmLauncher]:
    """A job that was submitted as Slurm job 101, and its launcher."""
    job, launcher = given.job("one"), given.launcher()
    launcher.submit([job])
    return job, launcher


def exits(launcher: SlurmLauncher, job: Job, time: Clock, duration_s: float) -> Exit | None:
    """Poll for `duration_s`; return the job's end, None if it has not ended."""
    for _ in range(int(duration_s / POLL_S) + 1):
        if (ended := launcher.poll([job]).get(job.name)) is not None:
            return ended
        time.pass_by(POLL_S)
    return None


def test_the_queue_is_queried_once_for_all_jobs_and_not_at_every_poll(given: Given, time: Clock) -> None:
    jobs, launcher = [given.job(f"leaf{number}") for number in range(50)], given.launcher()
    launcher.submit(jobs)
    for _ in range(20):
        assert launcher.poll(jobs) == {}
        time.pass_by(POLL_S / 10.0)
    assert given.slurm.count("squeue") == 2
    assert given.slurm.count("sacct") == 0


@pytest.mark.parametrize(
    ("state", "cause", "text"),
    [
        ("TIMEOUT", "timed out", "was ended by Slurm: TIMEOUT (Slurm job 101 on node n1)"),
        ("OUT_OF_MEMORY", "out of memory", "was ended by Slurm: OUT_OF_MEMORY (Slurm job 101 on node n1)"),
        ("CANCELLED", "cancelled", "was ended by Slurm: CANCELLED (Slurm job 101 on node n1)"),
        ("FAILED", "exited", "was ended by Slurm: FAILED, exit status 0 (Slurm job 101 on node n1)"),
    ],
)
def test_an_end_has_slurms_cause(
    given: Given, submitted: tuple[Job, SlurmLauncher], state: str, cause: Cause, text: str
) -> None:
    job, launcher = submitted
    given.slurm.listed["101"] = state
    assert launcher.poll([job]) == {job.name: Exit(text=text, cause=cause)}


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED"])
def test_an_end_that_slurm_revokes_does_not_count(
    given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock, state: str
) -> None:
    job, launcher = submitted
    given.slurm.listed["101"] = state
    assert launcher.live([job]) == {job.name}
    assert exits(launcher, job, time, SETTLE_S / 2) is None
    given.slurm.listed["101"] = "PENDING"
    assert exits(launcher, job, time, 10 * SETTLE_S) is None
    given.slurm.listed["101"] = state
    ended = exits(launcher, job, time, 2 * SETTLE_S)
    assert ended is not None
    assert ended.cause == {"NODE_FAIL": "node failed", "PREEMPTED": "preempted"}[state]
    assert given.slurm.cancelled == [["101"]]  # if it came back now, another job would run its stages
    given.slurm.listed["101"] = "CANCELLED"  # the next driver gets the cause, not the cancellation
    assert exits(SlurmLauncher(given.store, commands=given.slurm), job, time, POLL_S) == ended


def test_an_unlisted_job_is_lost_after_a_while(given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock) -> None:
    job, launcher = submitted
    given.slurm.listed.clear()
    assert exits(launcher, job, time, LOST_AFTER_S - POLL_S) is None
    ended = exits(launcher, job, time, 2 * POLL_S)
    assert ended == Exit(text="is unknown to Slurm: neither squeue nor sacct lists it (Slurm job 101)", cause="lost")


def test_a_job_that_starts_just_after_it_was_declared_lost_is_cancelled_before_another_runs_its_stages(
    given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock
) -> None:
    job, launcher = submitted
    given.slurm.listed.clear()
    while (known := read_submission(given.store, job.name)) is not None and known.ended is None:
        assert exits(launcher, job, time, 0.0) is None
    given.slurm.listed["101"] = "RUNNING"  # it started before it could read its own end
    assert exits(launcher, job, time, 3 * POLL_S) is None
    assert given.slurm.cancelled[0] == ["101"]
    given.slurm.listed["101"] = "CANCELLED"
    ended = exits(launcher, job, time, POLL_S)
    assert ended is not None
    assert ended.cause == "lost"


def test_a_job_that_the_controller_no_longer_lists_is_looked_up_in_the_database(
    given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock
) -> None:
    job, launcher = submitted
    given.slurm.listed.clear()
    given.slurm.accounted["101"] = "RUNNING"  # the database lags
    assert launcher.poll([job]) == {}
    time.pass_by(POLL_S)
    given.slurm.accounted["101"] = "CANCELLED by 0"
    assert launcher.poll([job])[job.name].text == "was ended by Slurm: CANCELLED by 0 (Slurm job 101 on node n1)"


def test_an_unresponsive_database_is_waited_for_and_reported_once(
    given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock
) -> None:
    job, launcher = submitted
    given.slurm.listed.clear()
    given.slurm.errors["sacct"] = SlurmAwayError("sacct: Problem talking to the database: Connection refused")
    assert exits(launcher, job, time, SACCT_AWAY_S - 2 * POLL_S) is None
    assert len(given.notices) == 1
    assert given.notices[0].startswith("sacct does not respond, waiting for it; jobs keep running (")
    ended = exits(launcher, job, time, 4 * POLL_S)
    assert ended is not None
    assert ended.cause == "lost"


def test_a_cluster_without_accounting_works(given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock) -> None:
    job, launcher = submitted
    given.slurm.listed.clear()
    given.slurm.errors["sacct"] = SlurmRefusedError("sacct: Slurm accounting storage is disabled")
    ended = exits(launcher, job, time, LOST_AFTER_S + POLL_S)
    assert ended is not None
    assert ended.cause == "lost"


def test_no_job_ends_or_dies_while_the_controller_is_unresponsive(
    given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock
) -> None:
    job, launcher = submitted
    given.slurm.errors["squeue"] = SlurmAwayError("squeue: Unable to contact slurm controller (connect failure)")
    assert exits(launcher, job, time, 3_600.0) is None
    assert launcher.live([job]) == {job.name}
    del given.slurm.errors["squeue"]
    launcher.poll([job])
    assert [notice.partition(" respond")[0] for notice in given.notices] == ["Slurm does not", "Slurm"]


def test_a_job_that_reports_its_end_counts_as_ended_and_is_cancelled_if_it_hangs(
    given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock
) -> None:
    job, launcher = submitted
    given.slurm.listed["101"] = "RUNNING"
    write_end(given.store, job.name, "done")
    assert launcher.poll([job]) == {job.name: Exit(text="ended", cause="exited")}
    time.pass_by(LEAVES_WITHIN_S - 1.0)
    launcher.poll([])
    assert given.slurm.cancelled == []
    time.pass_by(POLL_S)
    launcher.poll([])
    assert given.slurm.cancelled == [["101"]]


def test_a_completed_job_gets_time_for_its_result_to_become_visible(
    given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock
) -> None:
    job, launcher = submitted
    given.slurm.listed["101"] = "COMPLETED"
    assert exits(launcher, job, time, SETTLE_S / 2) is None
    write_end(given.store, job.name, "stopped")
    ended = Exit(text="stopped (Slurm job 101 on node n1)", cause="preempted")
    assert exits(launcher, job, time, 2 * POLL_S) == ended


def test_a_job_held_after_a_failed_start_is_released(
    given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock
) -> None:
    job, launcher = submitted
    given.slurm.reason = "launch failed requeued held"
    assert launcher.poll([job]) == {}
    assert ["scontrol", "release", "101"] in given.slurm.asked


def test_a_job_that_was_never_submitted_is_not_live(given: Given) -> None:
    job = given.job("one")
    assert given.launcher().live([job]) == set()
    assert given.slurm.asked == []
    assert given.launcher().poll([job])[job.name] == Exit(text="was never submitted", cause="lost")


def test_ids_nodes_and_states_of_jobs_are_shown(given: Given) -> None:
    jobs, launcher = [given.job("one"), given.job("two")], given.launcher()
    launcher.submit(jobs)
    given.slurm.listed["101_0"] = "RUNNING"
    given.slurm.reason = "Priority"
    shown = launcher.places(jobs)
    assert shown[jobs[1].name] == "Slurm job 101_1 on node n1 PENDING (Priority)"
    given.slurm.errors["squeue"] = SlurmAwayError("squeue: no response within 30 s")
    assert given.launcher().places(jobs)[jobs[0].name] == "Slurm job 101_0"


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_cancelling_ends_pending_jobs_signals_running_ones_and_kills_those_that_ignore_it(given: Given, time: Clock) -> None:
    waits, runs, leaves = (given.job(name) for name in ("waits", "runs", "leaves"))
    launcher = SlurmLauncher(given.store, given.file, given.stages, commands=given.slurm, grace_s=10.0)
    launcher.submit([waits, runs, leaves])
    given.slurm.listed |= {"101_1": "RUNNING", "101_2": "RUNNING"}
    given.store.paths.published(leaves.stage_ids[0]).mkdir()
    given.store.paths.record(leaves.stage_ids[0]).touch()
    began = time.now

    def obey(command: Sequence[str], *, timeout_s: float = 30.0) -> str:
        text = FakeSlurm.run(given.slurm, command, timeout_s=timeout_s)
        if command[0] == "scancel" and "--signal=TERM" not in command:
            given.slurm.listed |= {word: "CANCELLED" for word in command[1:] if word[0] != "-"}
        if time.now > began + 5.0:
            given.slurm.listed["101_2"] = "COMPLETED"
        return text

    given.slurm.run = obey  # type: ignore[method-assign]
    launcher.cancel([waits, runs, leaves])
    assert given.slurm.cancelled[0] == ["101_0"]
    assert given.slurm.cancelled[1] == ["--signal=TERM", "101_1"]
    assert given.slurm.cancelled[-1] == ["101_1"]
    assert not any("101_2" in command for command in given.slurm.cancelled)
    assert time.now - began < 12.0
    assert [is_cancelled(given.store, job.name) for job in (waits, runs, leaves)] == [True, True, False]


def test_cancelling_has_a_deadline_even_if_slurm_is_unresponsive(
    given: Given, submitted: tuple[Job, SlurmLauncher], time: Clock
) -> None:
    job, launcher = submitted
    given.slurm.errors |= {name: SlurmAwayError(f"{name}: no response") for name in ("squeue", "scancel")}
    began = time.now
    launcher.cancel([job])
    assert time.now - began < 180.0
    assert is_cancelled(given.store, job.name)  # the job checks this itself


# -- logs -------------------------------------------------------------------------------------------------------------


def test_a_stages_log_is_from_the_first_rank_and_the_last_start(given: Given) -> None:
    job = given.job("one")
    folder = given.store.paths.job_submitit(job.name)
    folder.mkdir(parents=True)
    mark = f"=== stage {job.stage_ids[0]} one now\n"
    (folder / "101_3_0_log.out").write_text(f"module load\n{mark}first\nslurmstepd: preempted\n{mark}second\n")
    (folder / "101_3_1_log.out").write_text("another rank\n")
    log = job_log(given.store, job.name)
    assert log is not None
    assert log.name == "101_3_0_log.out"
    assert stage_log(given.store, job.stage_ids[0], job.name) == [mark.strip(), "second"]
    os.truncate(log, len("module load\n"))
    assert stage_log(given.store, job.stage_ids[0], job.name) == ["module load"]  # Python did not start
