"""A simulated Slurm: the output of its commands, its treatment of jobs, and the ways in which it misreports.

Modelled on measurements of Slurm 22.05: sacct lags behind squeue; a job that was preempted, or whose node failed, is shown
as ended and requeued a moment later; a pending array task that is cancelled vanishes from both lists; a request may be
carried out even though its response never arrives.
"""

from __future__ import annotations

import functools
import re
import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.launch.slurm.commands import SlurmAwayError, SlurmCommands, SlurmRefusedError
from simulation.disk import Disk
from simulation.world import Actor, Host, World

NUM_NODES = 4
PREEMPTION_GRACE_S = 20.0
KILL_WAIT_S = 5.0
REQUEUE_AFTER_S = 12.0
ENDED = ("COMPLETED", "FAILED", "CANCELLED by 0", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")


@dataclass
class Task:
    """A Slurm job, or a task of an array. `job` is its midstudy job, `changed_at` the time of its last state change."""

    id: str
    name: str
    job: str
    is_array: bool
    submitted_at: float
    changed_at: float
    state: str = "PENDING"
    node: Host | None = None
    actor: Actor | None = None
    exit_code: str = "0:0"
    not_before: float = 0.0
    restarts: int = 0
    is_preempted: bool = False
    is_ending_as: str | None = None
    has_vanished: bool = False


@dataclass
class Habits:
    """Behaviour of the cluster, drawn once per seed."""

    sacct_lag_s: float
    forgets_after_s: float
    requeues_lost_nodes: bool
    comes_back_after_s: float


class Cluster:
    """Slurm's controller, database and nodes."""

    def __init__(
        self, world: World, disk: Disk, habits: Habits, run: Callable[[str], None], on_start: Callable[[Actor], None]
    ) -> None:
        self._world, self._disk, self.habits, self._run, self._on_start = world, disk, habits, run, on_start
        self.nodes = [Host(f"n{number}") for number in range(1, NUM_NODES + 1)]
        self.tasks: list[Task] = []
        self.is_away = self.is_sacct_away = False
        self.loses_answers = 0
        self.loses_requests = 0
        self.refusals = 0
        self.lied_about: set[str] = set()
        self._number = 1000

    # -- scheduling ---------------------------------------------------------------------------------------------------

    def enqueue(self, text: str, delay_s: float = 0.0) -> str:
        """Queue the job or array of a batch script, to appear after `delay_s`; return its id."""
        name = re.search(r"^#SBATCH --job-name=(.+)$", text, re.MULTILINE)
        folders = re.search(r"^folders=\((.*)\)$", text, re.MULTILINE)
        assert name is not None
        assert folders is not None
        self._number += 1
        jobs = [Path(folder).parent.name for folder in shlex.split(folders[1])]
        tasks = [
            Task(
                id=f"{self._number}_{index}" if len(jobs) > 1 else str(self._number),
                name=shlex.split(name[1])[0],
                job=job,
                is_array=len(jobs) > 1,
                submitted_at=self._world.now,
                changed_at=self._world.now,
                not_before=self._world.now + delay_s + self._world.random.uniform(0, 3),
            )
            for index, job in enumerate(jobs)
        ]

        def appear() -> None:
            self.tasks += tasks
            for task in tasks:
                self._schedule_at(task.not_before)

        if delay_s:
            self._world.after(delay_s, appear)
        else:
            appear()
        return str(self._number)

    def _schedule_at(self, moment: float) -> None:
        self._world.after(max(0.0, moment - self._world.now), self._schedule)

    def _schedule(self) -> None:
        busy = {task.node for task in self.tasks if task.state == "RUNNING"}
        free = [node for node in self.nodes if node not in busy]
        for task in self.tasks:
            if task.state == "PENDING" and not task.has_vanished and task.not_before <= self._world.now and free:
                self._begin(task, free.pop(self._world.random.randrange(len(free))))

    def _begin(self, task: Task, node: Host) -> None:
        task.state, task.node, task.changed_at = "RUNNING", node, self._world.now
        task.is_ending_as, task.is_preempted = None, False
        self._world.say(f"slurm: {task.id} ({task.job}) starts on {node.name}, restart {task.restarts}")
        actor = self._world.start(f"job {task.job}", node, lambda: self._run(task.job))
        array, _, index = task.id.partition("_")
        actor.environment = {
            "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": task.id, "SLURMD_NODENAME": node.name,
            "SLURM_RESTART_COUNT": str(task.restarts),
            **({"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": index} if index else {}),
        }  # fmt: skip
        task.actor = actor
        actor.when_ended.append(functools.partial(self._ended, task, actor))
        self._on_start(actor)

    def _ended(self, task: Task, actor: Actor) -> None:
        """Settle a task whose process has exited or was killed."""
        if task.actor is None or task.actor.pid != actor.pid:
            return  # an earlier start, which Slurm considers ended
        if actor.error is not None:
            self._world.say(f"slurm: {task.id} raised {actor.error!r}")
        if task.is_ending_as is None:
            task.exit_code = "0:9" if actor.is_doomed else "0:0" if actor.error is None else "1:0"
        self._settle(task, task.is_ending_as or ("COMPLETED" if task.exit_code == "0:0" else "FAILED"))

    def _settle(self, task: Task, state: str) -> None:
        comes_back = state == "REQUEUED"
        task.state, task.changed_at = ("COMPLETING" if comes_back else state), self._world.now
        self._world.say(f"slurm: {task.id} ({task.job}) {state}")
        if state == "PREEMPTED" or (state == "NODE_FAIL" and self.habits.requeues_lost_nodes):
            comes_back = True
        if comes_back:
            self._world.after(self.habits.comes_back_after_s, lambda: self._requeue(task))
        self._world.after(0.1, self._schedule)

    def _requeue(self, task: Task) -> None:
        if task.state in ("PREEMPTED", "NODE_FAIL", "COMPLETING") and not task.has_vanished:
            task.state, task.node, task.restarts = "PENDING", None, task.restarts + 1
            task.changed_at, task.not_before = self._world.now, self._world.now + REQUEUE_AFTER_S
            self._schedule_at(task.not_before)

    def _kill(self, task: Task, state: str) -> None:
        task.is_ending_as = state
        if task.actor is not None:
            task.actor.kill()

    def _signal(self, task: Task, number: int) -> None:
        if task.actor is not None and task.actor.stop is not None:  # else Python is not up yet, and the signal is lost
            task.actor.stop.signals.append(number)

    def _kill_later(self, task: Task, delay_s: float, state: str) -> None:
        actor = task.actor

        def kill() -> None:
            if task.actor is actor and task.state == "RUNNING":
                self._kill(task, state)

        self._world.after(delay_s, kill)

    # -- faults of jobs -----------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Task]:
        return [task for task in self.tasks if task.state == "RUNNING" and task.is_ending_as is None]

    def preempt(self, task: Task) -> None:
        self._world.say(f"fault: {task.id} is preempted")
        task.is_preempted = True
        self._signal(task, self._world.random.choice((signal.SIGUSR2, signal.SIGTERM)))
        self._kill_later(task, PREEMPTION_GRACE_S, "PREEMPTED")

    def time_out(self, task: Task) -> None:
        self._world.say(f"fault: {task.id} is at its time limit")
        self._signal(task, signal.SIGUSR2)
        self._kill_later(task, PREEMPTION_GRACE_S, "TIMEOUT")

    def kill(self, task: Task, state: str) -> None:
        self._world.say(f"fault: {task.id} is killed: {state}")
        task.exit_code = "0:9"
        self._kill(task, state)

    def lose_node(self, node: Host, *, really: bool) -> None:
        """Let a node fail; or only its daemon, so that its processes keep running while Slurm reports it as failed."""
        self._world.say(f"fault: node {node.name} {'fails' if really else 'is wrongly reported as failed'}")
        for task in self.running:
            if task.node is node and task.actor is not None:
                if really:
                    self._kill(task, "NODE_FAIL")
                else:
                    self.lied_about.add(task.job)
                    task.actor.when_ended.clear()
                    self._hang(task.actor)
                    task.actor = None
                    self._settle(task, "NODE_FAIL")
        if really:
            for actor in self._world.actors:
                if actor.host is node:
                    actor.kill()
            self._disk.lose_power(node.name)

    def forget(self, task: Task) -> None:
        """Remove a job from all lists; its process may keep running."""
        self._world.say(f"fault: {task.id} vanishes")
        task.has_vanished = True
        if task.actor is not None and self._world.random.random() < 0.7:
            task.actor.kill()
        else:
            self.lied_about.add(task.job)
            if task.actor is not None:
                self._hang(task.actor)

    def _hang(self, actor: Actor) -> None:
        """Let a process that Slurm no longer sees hang for a while and resume when another job has its work."""
        draw = self._world.random
        actor.stall(after_points=draw.randint(0, 120), duration_s=draw.uniform(10, 200))

    # -- commands -----------------------------------------------------------------------------------------------------

    def sbatch(self, script: str) -> str:
        self._respond()
        if self.refusals:
            self.refusals -= 1
            raise SlurmRefusedError(
                "sbatch: sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, "
                "user's size and/or time limits)"
            )
        text = Path(script).read_text("utf-8")
        if self.loses_requests:
            self.loses_requests -= 1
            self._world.say("fault: sbatch does not respond, and no job is submitted")
            raise SlurmAwayError("sbatch: no response within 30 s")
        if self.loses_answers:
            self.loses_answers -= 1
            self._world.say("fault: sbatch's response is lost")
            self.enqueue(text, delay_s=self._world.random.choice((0.0, 5.0, 40.0)))
            raise SlurmAwayError("sbatch: Socket timed out on send/recv operation")
        number = self.enqueue(text)
        self._world.point()
        return f"{number}\n"

    def squeue(self) -> str:
        self._respond()
        return "".join(
            f"{task.id}|{task.state.split()[0]}|{task.node.name if task.node else ''}|{_wait_status(task.exit_code)}|"
            f"{'Resources' if task.state == 'PENDING' else 'None'}|{task.name}|\n"
            for task in self.tasks
            if not task.has_vanished
            and (task.state not in ENDED or self._world.now - task.changed_at < self.habits.forgets_after_s)
        )

    def sacct(self, names: Sequence[str]) -> str:
        if self.is_sacct_away:
            raise SlurmAwayError("sacct: error: Problem talking to the database: Connection refused")
        self._world.point()
        lines = []
        for task in self.tasks:
            if task.name not in names or task.has_vanished:
                continue
            lag_s = self.habits.sacct_lag_s
            if self._world.now - task.submitted_at < lag_s:
                continue
            late = self._world.now - task.changed_at < lag_s
            state = ("RUNNING" if task.state in ENDED else "PENDING") if late else task.state
            node = task.node.name if task.node else "None assigned"
            lines.append(f"{task.id}|{state}|{task.exit_code}|{node}|{task.name}\n")
        return "".join(lines)

    def scancel(self, options: Sequence[str], ids: Sequence[str]) -> str:
        self._respond()
        name = next(option for option in options if option.startswith("--name=")).removeprefix("--name=")
        for task in self.tasks:
            if task.id not in ids or task.name != name:
                continue
            if task.state == "PENDING":
                task.state, task.changed_at = "CANCELLED by 0", self._world.now
                task.has_vanished = task.is_array
                self._world.say(f"slurm: {task.id} cancelled while pending")
            elif task.state == "RUNNING":
                self._signal(task, signal.SIGTERM)
                if "--signal=TERM" not in options:
                    self._kill_later(task, KILL_WAIT_S, "CANCELLED by 0")
            elif task.state in ("PREEMPTED", "NODE_FAIL"):
                task.state = "CANCELLED by 0"
        return ""

    def scontrol(self, words: Sequence[str]) -> str:
        self._respond()
        task = next(task for task in self.tasks if task.id == words[-1])
        if words[0] == "show":
            when = "2027-01-15T08:00:00" if task.is_preempted else "None"
            return f"JobId={task.id} JobState={task.state} PreemptTime={when} Restarts={task.restarts}\n"
        if words[0] == "requeue" and task.state == "RUNNING":
            self._kill_later(task, self._world.random.uniform(0, 2), "REQUEUED")
            task.is_ending_as = "REQUEUED"
        return ""

    def _respond(self) -> None:
        self._world.point()
        if self.is_away:
            self._world.sleep(self._world.random.uniform(1, 9))
            raise SlurmAwayError("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")


def _wait_status(exit_code: str) -> int:
    """Encode `1:0` or `0:9` (exit status, signal) as in wait(2)."""
    status, number = (int(part) for part in exit_code.split(":"))
    return status * 256 + number


class SimulatedCommands(SlurmCommands):
    """Slurm's commands, run on a simulated cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def require(self, store_root: Path) -> None:
        pass

    def run(self, command: Sequence[str], *, timeout_s: float = 30.0) -> str:
        name, *words = command
        commands: dict[str, Callable[[], Any]] = {
            "sbatch": lambda: self._cluster.sbatch(words[-1]),
            "squeue": self._cluster.squeue,
            "sacct": lambda: self._cluster.sacct(
                next(word for word in words if word.startswith("--name=")).removeprefix("--name=").split(",")
            ),
            "scancel": lambda: self._cluster.scancel(
                [word for word in words if word.startswith("-")], [word for word in words if not word.startswith("-")]
            ),
            "scontrol": lambda: self._cluster.scontrol([word for word in words if not word.startswith("-")]),
        }
        return str(commands[name]())
