"""A study in Prefect: what is recorded of it, and that nothing Prefect does can harm it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.begun_execute import ENTRY
from builders.fake_execute import fake_stage, let_go, starts
from builders.patience import lift_limits
from builders.places import PYTHONPATH, REPOSITORY
from builders.synthetic_study import SyntheticStudy, bare_manifest, frozen, synthetic_study
from builders.waiting import wait_until

from midstudy.flows.server import PrefectServer
from midstudy.flows.view import PrefectView
from midstudy.launch.backends import live_jobs
from midstudy.launch.driver import Driver, Outcome
from midstudy.launch.local import LocalLauncher
from midstudy.plan import manifest
from midstudy.recipe.stage import Stage
from midstudy.run.conduct import DetachedError, RunSummary, conduct
from midstudy.run.watch import Progress
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze
from midstudy.track.client import default_tracking_uri
from midstudy.track.follow import Follower


class FakeDriver:
    """Publishes the stages of a synthetic study by itself, parents first; some fail, with their descendants skipped."""

    def __init__(
        self,
        store: Store,
        study: SyntheticStudy,
        *,
        failing: Mapping[str, str] | None = None,
        stage_s: float = 0.0,
        before: Callable[[str], None] = lambda stage_id: None,
    ) -> None:
        self._store, self._study, self._failing, self._stage_s = store, study, failing or {}, stage_s
        self._before = before
        self._outcomes: dict[str, asyncio.Future[Outcome]] = {}
        self._work: asyncio.Task[None] | None = None
        self.stopped = False
        self.in_jobs: list[str] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._outcomes = {stage_id: loop.create_future() for stage_id in self._study.stages}
        self._work = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self.stopped = True
        if self._work is not None:
            self._work.cancel()

    async def detach(self) -> int:
        await self.stop()
        return len(self.in_jobs)

    async def finished(self, stage_id: str) -> Outcome:
        return await asyncio.shield(self._outcomes[stage_id])

    async def _run(self) -> None:
        lost: dict[str, str] = {}
        for stage_id, stage in self._study.stages.items():
            self._before(stage_id)
            if self._store.has(stage_id):
                outcome = Outcome(status="reused")
            elif ancestor := next((lost[parent] for parent in stage.parents if parent in lost), None):
                lost[stage_id] = ancestor
                outcome = Outcome(status="skipped", cause=f"needs {ancestor}, which failed", ancestor=ancestor)
            elif cause := self._failing.get(stage.label):
                lost[stage_id] = stage.label
                outcome = Outcome(status="failed", cause=cause)
            else:
                self.in_jobs = [stage_id]
                await asyncio.sleep(self._stage_s)
                self._study.publish(self._store, stage_id)
                outcome = Outcome(status="published")
            self._outcomes[stage_id].set_result(outcome)
            await asyncio.sleep(0)


def _conduct(
    driver: FakeDriver,
    store: Store,
    on_progress: Callable[[Progress], None] = lambda _: None,
    when_done: Callable[[], None] = lambda: None,
) -> RunSummary:
    return conduct(
        driver, store, "synthetic", backend="local", max_jobs=2, on_progress=on_progress,
        tracking_uri=default_tracking_uri(store), when_done=when_done, view_of=PrefectView,
    )  # fmt: skip


def _query(store: Store, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{store.paths.prefect / 'prefect.db'}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.fixture(scope="module", autouse=True)
def _patient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        lift_limits(patch)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, SyntheticStudy, list[RunSummary]]:
    """A study run twice: first with a stage that fails, then again without."""
    store = Store.open(tmp_path_factory.mktemp("runs") / "store", create=True)
    study = frozen(store, synthetic_study())
    failing = {"midtrain micro math12@30 seed 0 to step 60": "DivergedError: loss is nan at step 41\nwith a second line"}
    first = _conduct(FakeDriver(store, study, failing=failing), store)
    second = _conduct(FakeDriver(store, study), store)
    return store, study, [first, second]


def test_a_failed_stage_skips_its_descendants_and_the_rest_goes_on(
    runs: tuple[Store, SyntheticStudy, list[RunSummary]],
) -> None:
    _, study, (first, second) = runs
    assert [study.stages[stage_id].label for stage_id in first.failed] == ["midtrain micro math12@30 seed 0 to step 60"]
    behind = {i for i, s in study.stages.items() if s.factors.get("mix") == "math"} - set(first.failed)
    assert set(first.skipped) == behind
    assert len(first.finished) == len(study.stages) - 1 - len(behind)
    assert set(second.reused) == set(first.finished)
    assert set(second.finished) == set(first.failed) | set(first.skipped)
    assert first.warnings == second.warnings == ()


def test_each_run_is_one_flow_run_whose_state_says_what_failed(
    runs: tuple[Store, SyntheticStudy, list[RunSummary]],
) -> None:
    store, study, _ = runs
    states = "flow_run_state s ON s.id = r.state_id"
    sql = f"SELECT r.name, r.state_type, s.message FROM flow_run r JOIN {states} ORDER BY r.created"
    first, second = _query(store, sql)
    assert first[:2] == ("synthetic", "FAILED")
    assert "midtrain micro math12@30 seed 0 to step 60: DivergedError: loss is nan at step 41" in first[2]
    assert second[1] == "COMPLETED"
    assert f"{len(study.stages)} stages" in second[2]


def test_a_task_run_per_stage_named_as_the_stage_in_a_state_that_means_what_it_says(
    runs: tuple[Store, SyntheticStudy, list[RunSummary]],
) -> None:
    store, study, summaries = runs
    flow_runs = [row[0] for row in _query(store, "SELECT id FROM flow_run ORDER BY created")]
    for flow_run, summary in zip(flow_runs, summaries, strict=True):
        rows = _query(store, f"SELECT name, state_type, state_name FROM task_run WHERE flow_run_id = '{flow_run}'")
        assert Counter(name for name, *_ in rows) == Counter(stage.label for stage in study.stages.values())
        assert Counter((state, name) for _, state, name in rows) == Counter(
            {
                ("COMPLETED", "Completed"): len(summary.finished),
                ("COMPLETED", "Cached"): len(summary.reused),
                ("FAILED", "Failed"): len(summary.failed),
                ("CANCELLED", "Skipped"): len(summary.skipped),
            }
        )


def test_task_runs_are_tagged_and_linked_to_their_parents(
    runs: tuple[Store, SyntheticStudy, list[RunSummary]],
) -> None:
    store, study, _ = runs
    last = _query(store, "SELECT id FROM flow_run ORDER BY created DESC LIMIT 1")[0][0]
    rows = _query(store, f"SELECT id, name, tags, task_inputs FROM task_run WHERE flow_run_id = '{last}'")
    names = {str(run_id).replace("-", ""): name for run_id, name, *_ in rows}
    for stage in study.stages.values():
        _, _, tags, inputs = next(row for row in rows if row[1] == stage.label)
        expected = {stage.role, *([stage.data] if stage.data else []), *(str(one) for one in stage.factors.values())}
        assert set(json.loads(tags)) == expected
        linked = {names[one["id"].replace("-", "")] for one in json.loads(inputs).get("wait_for", [])}
        assert linked == {study.stages[parent].label for parent in stage.parents}


def test_artifacts_show_progress_results_and_where_everything_is(
    runs: tuple[Store, SyntheticStudy, list[RunSummary]],
) -> None:
    store, study, _ = runs
    latest = dict(_query(store, "SELECT key, data FROM artifact ORDER BY created"))
    assert float(latest["synthetic-progress"]) == 100.0
    table = json.loads(json.loads(latest["synthetic-results"]))
    assert len(table) == len(study.manifest.arms)
    assert {"size", "mix", "weight", "start_step", "task", "trunk_seed", "sft_seed", "sft_loss"} <= table[0].keys()
    page = json.loads(latest["synthetic-study"])
    for wanted in ("Does code help code?", "midstudy ui --store", "report"):
        assert wanted in page


def test_mlflow_is_up_to_date_when_the_run_ends(runs: tuple[Store, SyntheticStudy, list[RunSummary]]) -> None:
    store, study, _ = runs
    connection = sqlite3.connect(f"file:{store.paths.mlflow / 'mlflow.db'}?mode=ro", uri=True)
    try:
        sql = "SELECT status, COUNT(*) FROM runs WHERE lifecycle_stage = 'active' GROUP BY status"
        assert connection.execute(sql).fetchall() == [("FINISHED", 1 + len(study.stages))], "the study and its stages"
    finally:
        connection.close()


@pytest.fixture
def store(runs: tuple[Store, SyntheticStudy, list[RunSummary]], tmp_path: Path) -> Store:
    """A store with the study frozen and no stage finished; its views' databases are there, which saves making them."""
    copy = Store.open(Path(shutil.copytree(runs[0].root, tmp_path / "store")))
    shutil.rmtree(copy.paths.stages)
    return copy


@pytest.fixture
def study() -> SyntheticStudy:
    return synthetic_study()


@pytest.fixture
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's sync is another process that these tests can do without."""

    class Nothing(Follower):
        def __enter__(self) -> Follower:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def sync_soon(self) -> None: ...

    monkeypatch.setattr(Nothing, "finish", lambda self: None)
    monkeypatch.setattr("midstudy.run.conduct.Follower", Nothing)


@pytest.mark.usefixtures("no_mlflow")
def test_a_server_that_cannot_start_costs_a_warning(store: Store, study: SyntheticStudy) -> None:
    shutil.rmtree(store.paths.prefect)
    store.paths.prefect.write_text("a file where the server's folder should be")
    done: list[set[str]] = []
    summary = _conduct(FakeDriver(store, study), store, when_done=lambda: done.append(store.published(study.stages)))
    assert set(summary.finished) == set(study.stages)
    assert done == [set(study.stages)]  # the report is written once, when every stage has ended
    assert len(summary.warnings) == 1
    assert "Prefect" in summary.warnings[0]


@pytest.mark.usefixtures("no_mlflow")
def test_a_server_that_dies_in_the_middle_costs_a_warning(
    store: Store, study: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = _started_servers(monkeypatch)
    last = list(study.stages)[-1]

    def kill_the_server(stage_id: str) -> None:
        if stage_id == last:
            servers[0].wait_until_healthy()
            _kill(servers[0], signal.SIGKILL)

    summary = _conduct(FakeDriver(store, study, before=kill_the_server), store)
    assert set(summary.finished) == set(study.stages)
    assert len(summary.warnings) == 1
    assert "Prefect" in summary.warnings[0]


@pytest.mark.usefixtures("no_mlflow")
def test_a_server_that_hangs_is_given_up(store: Store, study: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = _started_servers(monkeypatch)
    monkeypatch.setattr("midstudy.run.conduct._CLOSE_TIMEOUT_S", 2.0)
    last = list(study.stages)[-1]

    def stop_the_server(stage_id: str) -> None:
        if stage_id == last:
            servers[0].wait_until_healthy()
            _kill(servers[0], signal.SIGSTOP)

    summary = _conduct(FakeDriver(store, study, before=stop_the_server), store)
    assert set(summary.finished) == set(study.stages)
    assert summary.warnings == ("Prefect did not finish within 2 s",)
    assert servers[0]._process is None, "stopped, by force if need be"


@pytest.mark.usefixtures("no_mlflow")
def test_a_configured_server_that_is_down_costs_a_warning(
    store: Store, study: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    monkeypatch.setenv("PREFECT_API_URL", nobody)
    monkeypatch.setattr("midstudy.run.conduct._CLOSE_TIMEOUT_S", 2.0)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    original = PrefectView._settings

    @contextlib.contextmanager
    def configured(self: PrefectView) -> Iterator[None]:  # the environment was read when Prefect was imported
        with original(self), temporary_settings({PREFECT_API_URL: nobody}):
            yield

    monkeypatch.setattr(PrefectView, "_settings", configured)
    summary = _conduct(FakeDriver(store, study), store)
    assert set(summary.finished) == set(study.stages)
    assert len(summary.warnings) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("no_mlflow")
@pytest.mark.parametrize(
    ("pressed", "signalled", "raised", "state"),
    [
        pytest.param(True, False, KeyboardInterrupt, "Cancelled", id="the cancel button"),
        pytest.param(True, True, KeyboardInterrupt, "Cancelled", id="a worker passes the cancel button on as SIGTERM"),
        pytest.param(False, True, DetachedError, "Detached", id="SIGTERM alone"),
    ],
)
def test_the_cancel_button_cancels_and_a_signal_alone_detaches(
    store: Store,
    study: SyntheticStudy,
    monkeypatch: pytest.MonkeyPatch,
    pressed: bool,
    signalled: bool,
    raised: type[BaseException],
    state: str,
) -> None:
    servers = _started_servers(monkeypatch)
    last = list(study.stages)[-1]

    def end(stage_id: str) -> None:
        if stage_id != last:
            return
        driver._stage_s = 10_000.0
        servers[0].wait_until_healthy()
        running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        runs = wait_until(lambda: json.loads(servers[0].request("/api/flow_runs/filter", running, timeout_s=60)))
        if pressed:
            cancelling = {"state": {"type": "CANCELLING"}}
            servers[0].request(f"/api/flow_runs/{runs[0]['id']}/set_state", cancelling, timeout_s=60)
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)

    driver = FakeDriver(store, study, before=end)
    with pytest.raises(raised):
        _conduct(driver, store)
    assert driver.stopped
    latest = "SELECT s.name FROM flow_run r JOIN flow_run_state s ON s.id = r.state_id ORDER BY r.created DESC LIMIT 1"
    assert _query(store, latest) == [(state,)]


def test_an_mlflow_that_cannot_be_written_costs_a_warning(store: Store, study: SyntheticStudy) -> None:
    shutil.rmtree(store.paths.mlflow)
    store.paths.mlflow.write_text("a file where the database's folder should be")
    summary = _conduct(FakeDriver(store, study), store)
    assert set(summary.finished) == set(study.stages)
    assert len(summary.warnings) == 1
    assert "mlflow" in summary.warnings[0]


# -- with the real driver and real jobs -------------------------------------------------------------------------------


def _request(store: Store, stages: list[Stage]) -> dict[str, Stage]:
    """Ask for the stages and freeze a study of them."""
    for stage in stages:
        store.request(stage)
    freeze(store, bare_manifest("real", {stage.id: manifest.stage_entry(stage) for stage in stages}))
    return {stage.id: stage for stage in stages}


def _conduct_real(store: Store, stages: dict[str, Stage], on_progress: Callable[[Progress], None]) -> RunSummary:
    driver = Driver(store, stages, LocalLauncher(store, entry=ENTRY, grace_s=0.5), study="real", max_jobs=2)
    return conduct(
        driver, store, "real", backend="local", max_jobs=2, on_progress=on_progress,
        tracking_uri=default_tracking_uri(store), view_of=PrefectView,
    )  # fmt: skip


def test_real_jobs_are_shown_as_the_driver_settles_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    root = fake_stage("root until=seen")
    bad, good = fake_stage("bad raise", root), fake_stage("good", root)
    below = fake_stage("below", bad)
    seen: list[Progress] = []

    def look(progress: Progress) -> None:
        seen.append(progress)
        if progress.running == (root.label,):
            let_go(store, "seen")

    summary = _conduct_real(store, _request(store, [root, bad, good, below]), look)
    assert set(summary.finished) == {root.id, good.id}
    assert summary.failed == {bad.id: "ValueError: bad cannot be made"}
    assert list(summary.skipped) == [below.id]
    assert (root.label,) in [progress.running for progress in seen]
    assert (seen[-1].ended, seen[-1].share_done, seen[-1].left_s) == (4, 1.0, 0.0)
    sql = "SELECT t.name, t.state_name FROM task_run t JOIN flow_run r ON r.id = t.flow_run_id WHERE r.name = 'real'"
    assert dict(_query(store, sql)) == {
        root.label: "Completed",
        "bad raise": "Failed",
        "good": "Completed",
        "below": "Skipped",
    }


_INTERRUPTED_RUN = """
import sys
from pathlib import Path
import pytest
from builders.fake_execute import fake_stage, let_go, starts
from builders.patience import lift_limits
from test_study import _conduct_real, _request
from midstudy.store.store import Store
store = Store.open(Path(sys.argv[1]))
lift_limits(pytest.MonkeyPatch())
try:
    _conduct_real(store, _request(store, [fake_stage("first"), fake_stage("long until=never")]), lambda progress: None)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_leaves_no_process_and_a_cancelled_flow_run(store: Store) -> None:
    command = [sys.executable, "-c", _INTERRUPTED_RUN, str(store.root)]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{PYTHONPATH}"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY)
    sql = "SELECT t.state_type FROM task_run t WHERE t.name = 'long until=never'"
    wait_until(lambda: _query(store, sql) == [("RUNNING",)])
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert output == "interrupted\n"
    assert not [one for one in Path("/proc").glob("[0-9]*") if _runs_in(one, store.root)], "nothing is left running"
    assert _query(store, sql) == [("CANCELLED",)]
    assert _query(store, "SELECT state_type FROM flow_run WHERE name = 'real'") == [("CANCELLED",)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_leave_lets_its_jobs_go_on(store: Store, number: signal.Signals) -> None:
    script = "from midstudy.run.conduct import DetachedError" + _INTERRUPTED_RUN.replace("until=never", "until=go")
    script = script.replace("KeyboardInterrupt:", "DetachedError as error:").replace('print("interrupted")', "print(error)")
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{PYTHONPATH}"}
    command = [sys.executable, "-c", script, str(store.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY)
    wait_until(lambda: "long" in starts(store))
    process.send_signal(number)
    output, _ = process.communicate()
    assert output.startswith(f"detached ({number.name}): 1 jobs keep running. The same command follows them again")
    assert len(live_jobs(store)) == 1
    let_go(store, "go")
    summary = _conduct_real(
        store, _request(store, [fake_stage("first"), fake_stage("long until=go")]), lambda progress: None
    )
    assert len(summary.finished) + len(summary.reused) == 2
    assert starts(store, "long") == ["long"]


def _runs_in(process: Path, root: Path) -> bool:
    """Whether a process other than this one belongs to the store: a sync names it, a server has its database."""
    try:
        if int(process.name) == os.getpid():
            return False
        return str(root).encode() in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    except OSError:
        return False


def _started_servers(monkeypatch: pytest.MonkeyPatch) -> list[PrefectServer]:
    servers: list[PrefectServer] = []
    original = PrefectServer.start

    def start(self: PrefectServer) -> None:
        servers.append(self)
        original(self)

    monkeypatch.setattr(PrefectServer, "start", start)
    return servers


def _kill(server: PrefectServer, number: signal.Signals) -> None:
    assert server._process is not None
    server._process.send_signal(number)
