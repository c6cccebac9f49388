#!/usr/bin/env python3
"""A private one-machine Slurm for tests: real daemons in one folder, on loopback, removed completely when stopped.

    tests/slurm/cluster.py start [FOLDER]     install Slurm if it is missing (Debian, root), print what to export
    tests/slurm/cluster.py stop FOLDER        end everything, including jobs, and remove the folder

munged, mariadbd, slurmdbd, slurmctld and four slurmd run as the calling user. Several clusters can run side by side.
Nothing is written outside the folder. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
"""Each node is named after its address, which resolves anywhere."""
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", *NODES)
"""In start order. A slurmd is called by its node's name."""

_PROGRAMS = (
    *("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd"),
    *("sbatch", "srun", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr"),
)
_MARK = "MIDSTUDY_SLURM_FOLDER"
"""Variable in the environment of every daemon and of the processes it starts: the folder of their cluster."""
_COMMAND_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 60.0
_POLL_S = 0.05


class ClusterError(Exception):
    """The cluster failed; the message contains the end of its logs."""


def missing_programs() -> list[str]:
    """Return the missing programs of Slurm, munge and MariaDB; `packages`, next to this file, installs them."""
    return [program for program in _PROGRAMS if shutil.which(program, path=_path()) is None]


class Cluster:
    """The cluster in a folder, and the faults that a test can inject.

    Only the process that started it can kill and restart its daemons. Faults are undone by `restore`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        # A daemon that a test restarts belongs to the cluster and must not count as a leftover of the test (`leftovers.py`).
        self._owner = {name: value for name, value in os.environ.items() if name == "STARTED_BY_TEST"}

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that uses this cluster, and not another one in which it may run."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**ours, "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Write the configuration and start every daemon; return when all nodes are idle and sacct responds.

        Raises:
            ClusterError: a program is missing, or a daemon did not come up.
        """
        if missing := missing_programs():
            packages = Path(__file__).with_name("packages")
            raise ClusterError(f"not installed: {', '.join(missing)}. On Debian, as root: {packages}")
        self._configure()
        for daemon in DAEMONS:
            self.start_daemon(daemon)
            if daemon == "slurmdbd":
                self.run("sacctmgr", "-i", "-Q", "add", "cluster", "midstudy")
        self.restore()
        self.run("sacct", "-n", "-X")

    def stop(self) -> None:
        """Kill everything that belongs to the cluster and remove its folder."""
        end_processes(self.folder)
        for process in self._daemons.values():
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop_with_this_process(self) -> None:
        """Stop the cluster when this process ends, however it ends."""
        subprocess.Popen(
            [sys.executable, __file__, "stop", "--with-parent", str(os.getpid()), str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    # -- commands -----------------------------------------------------------------------------------------------------

    def run(self, *command: str, timeout_s: float = _COMMAND_TIMEOUT_S) -> str:
        """Run a command on this cluster and return its output.

        Raises:
            subprocess.CalledProcessError: it failed; its messages are in `stderr`.
            subprocess.TimeoutExpired: it did not finish in time.
        """
        try:
            return subprocess.run(
                command, env=self.environment, check=True, capture_output=True, text=True, timeout=timeout_s
            ).stdout
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise

    # -- faults -------------------------------------------------------------------------------------------------------

    def kill_daemon(self, daemon: str) -> None:
        """Kill a daemon, as by `kill -9`. Jobs of a slurmd keep running."""
        self._daemons[daemon].kill()
        self._daemons[daemon].wait()

    def start_daemon(self, daemon: str) -> None:
        """Start a daemon that is not running; return when it responds, or at once for a node."""
        with (self.folder / "log" / f"{daemon}.log").open("ab") as log:
            self._daemons[daemon] = subprocess.Popen(
                self._command(daemon),
                env={
                    **self.environment,
                    **self._owner,
                    _MARK: str(self.folder),
                    "MYSQL_UNIX_PORT": str(self.folder / "run" / "mariadbd.socket"),
                },
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for(lambda: self._answers(daemon), daemon)

    @contextlib.contextmanager
    def without(self, daemon: str) -> Iterator[None]:
        """Keep a daemon dead. Its clients fail at once, or after their own retries."""
        self.kill_daemon(daemon)
        try:
            yield
        finally:
            self.start_daemon(daemon)

    @contextlib.contextmanager
    def frozen(self, daemon: str) -> Iterator[None]:
        """Freeze a daemon: it keeps its connections but does not respond, so its clients wait."""
        self._daemons[daemon].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemons[daemon].send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def broken_node(self, node: str) -> Iterator[None]:
        """Make a node's prolog fail, so that the node cannot start jobs."""
        mark = self.folder / "broken" / node
        mark.touch()
        try:
            yield
        finally:
            mark.unlink()

    def restore(self) -> None:
        """Undo all faults: return once every daemon runs, no job is left and every node is idle."""
        for mark in (self.folder / "broken").iterdir():
            mark.unlink()
        for daemon in DAEMONS:
            if self._daemons[daemon].poll() is None:
                self._daemons[daemon].send_signal(signal.SIGCONT)
            else:
                self.start_daemon(daemon)
        self._wait_for(self._is_quiet, "an empty queue and idle nodes")

    # -- inside -------------------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        if not re.fullmatch(r"/[\w./-]{1,80}", str(self.folder)):
            raise ClusterError(
                f"expected an absolute path of at most 80 plain characters (sockets, Slurm), got {self.folder}"
            )
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # munged requires a socket path that all users can reach
        for name in ("broken", "gpu", "log", "run", "spool", "state"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        prolog = self.folder / "prolog"
        prolog.write_text(f'#!/bin/sh\n[ ! -e "{self.folder}/broken/$SLURMD_NODENAME" ]\n', "utf-8")
        prolog.chmod(0o755)
        port = _free_ports(2 + len(NODES))
        words = {
            "FOLDER": str(self.folder),
            "HOST": socket.gethostname().partition(".")[0],
            "USER": getpass.getuser(),
            "NODES": ",".join(NODES),
            "CONTROLLER_PORT": str(port),
            "DATABASE_PORT": str(port + 1),
            "NODE_PORTS": f"{port + 2}-{port + 1 + len(NODES)}",
            "FIRST_JOB": str(int(time.time() / 5) % 50_000_000 + 1),
        }
        template = Path(__file__).with_name("slurm.conf.in").read_text("utf-8")
        (self.folder / "slurm.conf").write_text(re.sub(r"@(\w+)@", lambda match: words[match[1]], template), "utf-8")
        for index in range(2):
            (self.folder / "gpu" / str(index)).symlink_to("/dev/null")
        (self.folder / "gres.conf").write_text(
            f"NodeName={','.join(NODES)} Name=gpu File={self.folder}/gpu/[0-1] Flags=nvidia_gpu_env\n"
            f"NodeName={','.join(NODES)} Name=shard Count=8\n",  # four per GPU
            "utf-8",
        )
        database = self.folder / "slurmdbd.conf"
        database.touch(mode=0o600)
        database.write_text(
            "AuthType=auth/munge\n"
            f"AuthInfo=socket={self.folder}/run/munged.socket\n"
            "CommunicationParameters=NoInAddrAny\n"
            "DbdHost=localhost\n"
            f"DbdPort={port + 1}\n"
            f"SlurmUser={getpass.getuser()}\n"
            f"PidFile={self.folder}/run/slurmdbd.pid\n"
            "StorageType=accounting_storage/mysql\n"
            "StorageHost=localhost\n"
            f"StorageUser={getpass.getuser()}\n"
            "StorageLoc=slurm\n",
            "utf-8",
        )
        with (self.folder / "log" / "mariadb-install-db.log").open("wb") as log:
            installed = subprocess.run(
                [
                    *("mariadb-install-db", "--no-defaults", f"--datadir={self.folder}/state/mariadb", "--skip-test-db"),
                    *(f"--user={getpass.getuser()}", "--auth-root-authentication-method=socket"),
                    f"--auth-root-socket-user={getpass.getuser()}",
                ],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if installed.returncode:
            raise ClusterError(f"mariadb-install-db failed\n{self._ends_of_logs()}")

    def _command(self, daemon: str) -> list[str]:
        if daemon == "munged":
            return [
                *("munged", "--foreground", f"--key-file={self.folder}/munge.key"),
                f"--socket={self.folder}/run/munged.socket",
                f"--pid-file={self.folder}/run/munged.pid",
                f"--seed-file={self.folder}/run/munged.seed",
            ]
        if daemon == "mariadbd":
            return [
                *("mariadbd", "--no-defaults", f"--datadir={self.folder}/state/mariadb", f"--user={getpass.getuser()}"),
                *("--skip-networking", f"--socket={self.folder}/run/mariadbd.socket"),
                f"--pid-file={self.folder}/run/mariadbd.pid",
                *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
                "--innodb-flush-log-at-trx-commit=0",
            ]
        if daemon in NODES:
            return ["slurmd", "-D", "-N", daemon]
        return [daemon, "-D"]

    def _answers(self, daemon: str) -> bool:
        if daemon in ("munged", "mariadbd"):
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(str(self.folder / "run" / f"{daemon}.socket")) == 0
        if daemon == "slurmdbd":
            return self._succeeds("sacctmgr", "-n", "show", "cluster")
        if daemon == "slurmctld":
            return self._succeeds("squeue", "-h")
        return True

    def _succeeds(self, *command: str) -> bool:
        try:
            self.run(*command)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False
        return True

    def _is_quiet(self) -> bool:
        """Return whether no job is left and every node is idle; if not, cancel jobs and resume nodes."""
        if self.run("squeue", "-h"):
            self.run("scancel", "--user", getpass.getuser())  # at every poll: a job may be requeuing itself
            _kill(_tasks(self.folder))  # those that ignore the signal would take up to KillWait and longer
            return False
        states = dict(line.split() for line in self.run("sinfo", "-h", "-N", "-p", "cpu", "-o", "%N %T").splitlines())
        for node in NODES:
            if states.get(node, "").rstrip("*") in ("down", "drained", "draining"):  # where a fault left it
                with contextlib.suppress(subprocess.CalledProcessError):
                    self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        return all(states.get(node) == "idle" for node in NODES)

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not condition():
            dead = [daemon for daemon, process in self._daemons.items() if process.poll() is not None]
            if what in dead or time.monotonic() > deadline:
                raise ClusterError(f"timed out waiting for {what}; not running: {dead}\n{self._ends_of_logs()}")
            time.sleep(_POLL_S)

    def _ends_of_logs(self) -> str:
        logs = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(
            "\n".join([f"--- {log}", *log.read_text("utf-8", errors="replace").splitlines()[-5:]]) for log in logs
        )


def end_processes(folder: Path) -> None:
    """Kill every process of the cluster in `folder`: its daemons, steps and jobs, but not its clients."""
    while processes := _with_descendants(_tasks(folder) | _carrying(f"{_MARK}={folder}")):
        _kill(processes)
        time.sleep(_POLL_S)


def _kill(processes: set[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _tasks(folder: Path) -> set[int]:
    """Return the PIDs of the processes of the cluster's jobs."""
    return _carrying(f"SLURM_CONF={folder}/slurm.conf", "SLURM_JOB_ID=")


def _carrying(*begins: str) -> set[int]:
    """Return the PIDs of processes that have, for each of `begins`, an environment variable that begins with it."""
    pids = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            variables = (entry / "environ").read_bytes().split(b"\0")
            if all(any(variable.startswith(begin.encode()) for variable in variables) for begin in begins):
                pids.add(int(entry.name))
    return pids - {os.getpid()}


def _with_descendants(processes: set[int]) -> set[int]:
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    tree = set(processes)
    while children := {process for process, parent in parents.items() if parent in tree} - tree:
        tree |= children
    return tree


def _free_ports(num: int) -> int:
    """Return the first of `num` consecutive free ports, below the range of outgoing connections, so that they stay free."""
    for first in random.SystemRandom().sample(range(10_000, 32_000), 100):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + num):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise ClusterError("no free ports on loopback")


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def main(arguments: list[str]) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="A private one-machine Slurm for tests.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("start", help="install Slurm if it is missing, start a cluster, print what to export")
    start.add_argument("folder", nargs="?", type=Path, help="new folder for all of its files; default: a temporary one")
    stop = verbs.add_parser("stop", help="end everything in a cluster, including jobs, and remove its folder")
    stop.add_argument("folder", type=Path)
    stop.add_argument("--with-parent", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.verb == "stop":
        while options.with_parent == os.getppid():
            time.sleep(0.5)
        Cluster(options.folder.absolute()).stop()
        return 0
    if missing_programs() and subprocess.run([Path(__file__).with_name("packages")]).returncode:
        return 1
    cluster = Cluster(options.folder.absolute() if options.folder else Path(tempfile.mkdtemp(prefix="midstudy-slurm-")))
    try:
        cluster.start()
    except BaseException as error:
        end_processes(cluster.folder)
        if not isinstance(error, ClusterError):
            raise
        print(error, file=sys.stderr)
        return 1
    print(f"export SLURM_CONF={cluster.folder}/slurm.conf")
    print(f"stop it with: {__file__} stop {cluster.folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
