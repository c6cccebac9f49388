"""Benchmark: the driver's cost of the Prefect view of a study: memory and CPU while stages wait, and for each that ends.

    python benchmarks/prefect_view.py --stages 1000 --wait-s 30

The study has a trunk and `--stages` stages that wait for it. The view is that of `midstudy run`: a thread with an event
loop, and a separate Prefect server. First all stages wait for `--wait-s` seconds, then all end at once. The driver's process
is measured with and without the view; the server, which is another process and may be on another machine, is measured
separately.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

from bare_manifest import bare_manifest

from midstudy.flows.server import PrefectServer
from midstudy.flows.view import PrefectView
from midstudy.recipe.manifest import Manifest, StageEntry
from midstudy.run.watch import FINISHED, End, Watch
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze

_TICK_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--wait-s", type=float, default=30.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Store.open(Path(folder) / "store", create=True), num_stages=options.stages, wait_s=options.wait_s)


def measure(store: Store, *, num_stages: int, wait_s: float) -> None:
    """Print the cost of the view of `num_stages` stages."""
    manifest = _manifest(num_stages)
    freeze(store, manifest)
    servers: list[PrefectServer] = []
    start = PrefectServer.start

    def recorded(server: PrefectServer) -> None:
        servers.append(server)
        start(server)

    PrefectServer.start = recorded  # type: ignore[method-assign, assignment]
    watch = Watch(manifest.stages, max_jobs=2)
    bare_mb, bare_s = _memory_mb(), _cpu_s()
    view = PrefectView(store, manifest, watch, backend="local", max_jobs=2, tracking_uri="sqlite:///none")
    view.start()
    watch.begin("trunk")
    _until_shown(view)
    print(f"before the view      {bare_mb:7.0f} MB  {bare_s:6.2f} CPU s")
    print(f"Prefect, up          {_memory_mb():7.0f} MB  {_cpu_s() - bare_s:6.2f} CPU s")
    started, start_cpu_s = time.perf_counter(), _cpu_s()
    server = servers[0]._process
    assert server is not None
    server_start_cpu_s = _cpu_s(server.pid)
    time.sleep(wait_s)
    waited_s = time.perf_counter() - started
    share, server_share = (_cpu_s() - start_cpu_s) / waited_s, (_cpu_s(server.pid) - server_start_cpu_s) / waited_s
    print(
        f"{num_stages:,} wait{'':<10}{_memory_mb():7.0f} MB  {100 * share:6.2f} % of a core, "
        f"{threading.active_count()} threads; server {_memory_mb(server.pid):.0f} MB, {100 * server_share:.2f} %"
    )
    started, start_cpu_s, server_start_cpu_s = time.perf_counter(), _cpu_s(), _cpu_s(server.pid)
    for stage_id in manifest.stages:
        watch.end(stage_id, End(FINISHED))
    view._thread.join(600)
    recorded_s = time.perf_counter() - started
    spent_ms = 1e3 * (_cpu_s() - start_cpu_s) / num_stages
    view.close(600)
    print(
        f"{num_stages:,} end{'':<11}{_memory_mb():7.0f} MB  {spent_ms:6.2f} CPU ms a stage, "
        f"all recorded {recorded_s:.1f} s later; {threading.active_count()} threads; trouble: {view.trouble or 'none'}"
    )


def _until_shown(view: PrefectView) -> None:
    while view._flow is None or view._flow.num_task_runs < 1:
        if not view._thread.is_alive():
            raise SystemExit(view.trouble)
        time.sleep(0.1)
    time.sleep(5.0)  # the first artifacts


def _manifest(num_stages: int) -> Manifest:
    def stage(role: str, label: str, *parents: str) -> StageEntry:
        return StageEntry(
            kind="state",
            role=role,
            label=label,
            parents=parents,
            start_from=parents[0] if parents else None,
            continues_trunk=False,
            keeps_optimizer=False,
            num_steps=1,
            num_tokens=1,
            cost_s=1.0,
            disk_bytes=0,
            factors={"size": "micro", "mix": "code", "task": "pycode"},
            model="micro",
            step=240,
            data="",
            split="",
        )

    stages = {"trunk": stage("pretrain", "pretrain micro seed 0 to step 240")}
    stages |= {
        f"{n:016x}": stage("sft", f"sft micro code20@{n} → pycode, trunk 0, SFT 0", "trunk") for n in range(num_stages)
    }
    return bare_manifest("view", stages, question="What does the view cost?", command="benchmarks/prefect_view.py")


def _memory_mb(pid: int | str = "self") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _cpu_s(pid: int | str = "self") -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK_S


if __name__ == "__main__":
    main()
