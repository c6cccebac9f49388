"""Parsing Slurm's output: text captured from Slurm 22.05, and forms that only larger clusters print."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders.waiting import wait_until

from midstudy.launch.process import Process
from midstudy.launch.slurm.commands import SlurmAwayError, SlurmCommands, SlurmRefusedError
from midstudy.launch.slurm.queue import SlurmJob, parse_sacct, parse_squeue, sacct, squeue, task_ids

SQUEUE = """\
9104783_4|CANCELLED|127.0.0.2|15|None|61d847ff6331e574-098788b4|
9104783_3|COMPLETED|127.0.0.1|0|None|61d847ff6331e574-098788b4|
9104783_0|FAILED|127.0.0.1|35072|NonZeroExitCode|61d847ff6331e574-098788b4|
9104783_1|FAILED|127.0.0.1|768|NonZeroExitCode|61d847ff6331e574-098788b4|
9104783_2|FAILED|127.0.0.1|34304|NonZeroExitCode|61d847ff6331e574-098788b4|
9104784|PENDING||0|BeginTime|other|
9104785|PENDING||0|PartitionNodeLimit|never|
9104783_5|RUNNING|127.0.0.2|0|None|61d847ff6331e574-098788b4|
9104791_[1-9%1]|PENDING||0|JobArrayTaskLimit|arr|
"""
SACCT = """\
9104785|PENDING|0:0|None assigned|never
9104783_0|FAILED|9:0|127.0.0.1|61d847ff6331e574-098788b4
9104783_0.batch|FAILED|9:0|127.0.0.1|batch
9104783_0.0|CANCELLED|0:9|127.0.0.1|python3
9104783_1|FAILED|3:0|127.0.0.1|61d847ff6331e574-098788b4
9104783_1.batch|FAILED|3:0|127.0.0.1|batch
9104783_1.0|FAILED|3:0|127.0.0.1|python3
9104783_2|FAILED|6:0|127.0.0.1|61d847ff6331e574-098788b4
9104783_2.batch|FAILED|6:0|127.0.0.1|batch
9104783_2.0|CANCELLED|0:6|127.0.0.1|python3
9104783_3|COMPLETED|0:0|127.0.0.1|61d847ff6331e574-098788b4
9104783_3.batch|COMPLETED|0:0|127.0.0.1|batch
9104783_4|CANCELLED by 0|0:0|127.0.0.2|61d847ff6331e574-098788b4
9104783_4.batch|CANCELLED|0:15|127.0.0.2|batch
9104784|PENDING|0:0|None assigned|other
"""


def test_squeue_and_sacct_agree_on_how_jobs_ended() -> None:
    for jobs in (parse_squeue(SQUEUE), parse_sacct(SACCT)):
        ended = {job.index: job for job in jobs if job.name == "61d847ff6331e574-098788b4" and job.has_ended}
        assert {index: job.cause for index, job in ended.items()} == {
            0: "killed",  # by SIGKILL
            1: "exited",  # with status 3
            2: "exited",  # by abort(), which is the code's own failure
            3: "exited",
            4: "cancelled",
        }
        assert ended[0].text == "was ended by Slurm: FAILED, SIGKILL (Slurm job 9104783_0 on node 127.0.0.1)"
        assert ended[1].text == "was ended by Slurm: FAILED, exit status 3 (Slurm job 9104783_1 on node 127.0.0.1)"
        assert ended[2].signal_name == "SIGABRT"


def test_pending_and_running_jobs_have_not_ended() -> None:
    jobs = {job.id: job for job in parse_squeue(SQUEUE)}
    assert not any(jobs[job_id].has_ended for job_id in ("9104784", "9104785", "9104783_5", "9104791_1", "9104791_9"))
    assert len([job for job in jobs.values() if job.name == "arr"]) == 9
    assert jobs["9104785"].place == "Slurm job 9104785"
    waiting = {job.id: job for job in parse_sacct(SACCT)}["9104785"]
    assert (waiting.has_ended, waiting.node) == (False, "")


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("CANCELLED by 1003", "cancelled"),
        ("TIMEOUT", "timed out"),
        ("NODE_FAIL", "node failed"),
        ("PREEMPTED", "preempted"),
        ("OUT_OF_MEMORY", "out of memory"),
        *((state, None) for state in ("COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "RESIZING", "SPECIAL_EXIT")),
    ],
)
def test_a_state_is_final_exactly_if_it_has_a_cause(state: str, cause: str | None) -> None:
    job = SlurmJob(id="1", name="a", state=state)
    assert job.has_ended == (cause is not None)
    if cause is not None:
        assert job.cause == cause


def test_a_step_that_ran_out_of_memory_gives_its_job_that_cause() -> None:
    (job,) = parse_sacct("7|FAILED|9:0|n1|a\n7.batch|FAILED|9:0|n1|batch\n7.0|OUT_OF_MEMORY|0:125|n1|python\n")
    assert job.cause == "out of memory"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[4-6]", ["12_4", "12_5", "12_6"]),
        ("12_[0,3-4,9%2]", ["12_0", "12_3", "12_4", "12_9"]),
        ("12_[0-8:4]", ["12_0", "12_4", "12_8"]),
        ("12+0", []),
        ("12_[0-...]", []),
    ],
)
def test_array_ids_expand_to_tasks(text: str, ids: list[str]) -> None:
    assert list(task_ids(text)) == ids


def test_only_a_job_that_could_not_be_started_counts_as_held() -> None:
    held, waiting = parse_squeue("1|PENDING||0|launch failed requeued held|a|\n2|PENDING||0|JobHeldUser|b|\n")
    assert held.is_held
    assert not waiting.is_held


class CannedCommands(SlurmCommands):
    """Return a fixed text and record the commands."""

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, [""]

    def run(self, command: Sequence[str], *, timeout_s: float = 0.0) -> str:
        self.asked.append(" ".join(command))
        return self.text


def test_one_query_covers_all_jobs() -> None:
    commands = CannedCommands(SQUEUE)
    assert len(squeue(commands)) == 17
    commands.text = SACCT
    assert len(sacct(commands, ["other", "never"], since=time.time())) == 7
    assert "--me" in commands.asked[1]
    assert "--name=other,never" in commands.asked[2]
    assert len(commands.asked) == 3


def command(tmp_path: Path, name: str, body: str) -> None:
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", 1),
        ("slurm_load_jobs error: Socket timed out on send/recv operation", 1),
        ("sacct: error: Problem talking to the database: Connection refused", 1),
        ("Unexpected message received for job 11966611", 1),
    ],
)
def test_an_unresponsive_slurm_is_distinguished_from_a_refusal(path: Path, message: str, status: int) -> None:
    command(path, "sbatch", f"echo '{message}' >&2; exit {status}")
    with pytest.raises(SlurmAwayError, match="sbatch: "):
        SlurmCommands().run(["sbatch"])
    command(path, "sbatch", "echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1")
    with pytest.raises(SlurmRefusedError, match="invalid partition specified: nope"):
        SlurmCommands().run(["sbatch"])


def test_a_command_that_times_out_is_killed_with_its_children(path: Path) -> None:
    command(path, "squeue", f"sleep 10000 & echo $! > {path}/child; wait")
    with pytest.raises(SlurmAwayError, match="squeue: no response within 2 s"):
        SlurmCommands().run(["squeue"], timeout_s=2.0)
    child = Process.of(int((path / "child").read_text()))
    wait_until(lambda: child is None or not child.is_alive())


def test_a_command_inherits_no_format_variables_and_no_surrounding_job(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SQUEUE_FORMAT", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "x")
    command(path, "squeue", "env")
    names = {line.partition("=")[0] for line in SlurmCommands().run(["squeue"]).splitlines()}
    assert names & {"SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SQUEUE_FORMAT", "SBATCH_PARTITION", "SLURM_CONF"} == {
        "SLURM_CONF"
    }


def test_missing_commands_are_reported_with_a_remedy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(path, "sbatch", "")
    monkeypatch.setenv("PATH", str(path))
    with pytest.raises(ValueError, match=r"squeue, scancel, scontrol not found.*slurm-client.*--backend local"):
        SlurmCommands().require(path)
    with pytest.raises(ValueError, match="--store: with Slurm, expected a path without '%', got "):
        SlurmCommands().require(path / "100%")
