"""Benchmark: the overhead of running a study: a grid of equal payloads with midstudy and with plain submitit.

    python benchmarks/orchestration.py [--stages 1000] [--payload-s 2] [--rounds 1] [--backend local | slurm]

The grid has three levels: one percent of the stages are roots, each with nine children, each of which has ten leaves. A
stage may start when its parent is done. Its payload is `--payload-s` seconds of CPU time. The variants run alternately:

    submitit   a loop of twenty lines: submit ready stages, at most one per core, and poll five times a second
    midstudy   the driver, one stage per job
    with views the same with the views of `midstudy run`: Prefect with a separate server, and MLflow
    packed     the driver, several stages per job

Each run is a separate process. CPU time is that of the process and of everything it waited for, without the payloads. On
Slurm, jobs use the cluster's CPU time, so only the makespan is compared, and the number of jobs is limited by the cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
VARIANTS = {"local": ("submitit", "midstudy", "with views", "packed"), "slurm": ("submitit", "midstudy", "packed")}
ENTRY = "payload:execute_stage"
POLL_S = 0.2
STUDY = "grid"


def grid(num_stages: int) -> list[tuple[str, str | None]]:
    """Return the names of the stages with their parents' names, parents first."""
    names: list[tuple[str, str | None]] = []
    for root in range(num_stages):
        names.append((f"r{root}", None))
        for child in range(9):
            names.append((f"r{root}c{child}", f"r{root}"))
            names += [(f"r{root}c{child}l{leaf}", f"r{root}c{child}") for leaf in range(10)]
        if len(names) >= num_stages:
            break
    return names[:num_stages]


# -- plain submitit ---------------------------------------------------------------------------------------------------


def run_submitit(folder: Path, names: list[tuple[str, str | None]], payload_s: float, backend: str) -> None:
    """Run the grid with the loop that a user would write without midstudy."""
    import submitit
    from payload import burn

    is_local = backend == "local"
    executor: Any = submitit.LocalExecutor(folder) if is_local else submitit.SlurmExecutor(folder)
    if is_local:
        executor.update_parameters(timeout_min=60)
    else:
        executor.update_parameters(time=60, cpus_per_task=1, use_srun=False, array_parallelism=1000)
    most = os.cpu_count() or 1 if is_local else 1000
    left, done, running = dict(names), set[str | None]([None]), dict[str, Any]()
    while left or running:
        ready = [name for name, parent in left.items() if parent in done][: most - len(running)]
        if len(ready) > 1 and not is_local:
            running |= zip(ready, executor.map_array(burn, [payload_s] * len(ready)), strict=True)
        else:
            running |= {name: executor.submit(burn, payload_s) for name in ready}
        for name in ready:
            del left[name]
        time.sleep(POLL_S)
        for name, job in list(running.items()):
            if job.done():
                job.result()
                done.add(name)
                del running[name]


# -- midstudy ---------------------------------------------------------------------------------------------------------


def run_midstudy(folder: Path, names: list[tuple[str, str | None]], payload_s: float, backend: str, variant: str) -> None:
    """Run the grid as a frozen study."""
    from bare_manifest import bare_manifest

    from midstudy.launch.driver import Driver
    from midstudy.launch.launcher import Launcher
    from midstudy.launch.local import LocalLauncher
    from midstudy.launch.slurm.launcher import SlurmLauncher
    from midstudy.plan.manifest import stage_entry
    from midstudy.recipe import Corpus, Source, Tokenizer
    from midstudy.recipe.stage import Stage, stage_id
    from midstudy.store.store import Store
    from midstudy.store.study_manifest import freeze

    class OneStagePerJob:
        def pack_key(self, stage: Stage) -> Hashable:
            return variant == "packed" or stage.id

    class Local(OneStagePerJob, LocalLauncher):
        pass

    class Slurm(OneStagePerJob, SlurmLauncher):
        pass

    store = Store.open(folder / "store", create=True)
    ids: dict[str | None, str] = {}
    stages: dict[str, Stage] = {}
    for name, parent in names:
        corpus = Corpus(name="text", source=Source(kind="wheels", part=name, revision="r1"))
        recipe = Tokenizer(corpus=corpus, vocab_size=512, max_bytes=1000)
        ids[name] = stage_id(recipe)
        parents = () if parent is None else (ids[parent],)
        stages[ids[name]] = Stage(
            id=ids[name],
            label=f"{name} {payload_s}",
            recipe=recipe,
            parents=parents,
            cost_s=payload_s,
            role="data",
        )
    for stage in stages.values():
        store.request(stage)
    entries = {stage.id: stage_entry(stage) for stage in stages.values()}
    question, command = "What does it cost?", "benchmarks/orchestration.py"
    freeze(store, bare_manifest(STUDY, entries, question=question, command=command))
    launcher: Launcher = Local(store, entry=ENTRY) if backend == "local" else Slurm(store, stages=stages, entry=ENTRY)
    max_jobs = (os.cpu_count() or 1) if backend == "local" else 1000
    driver = Driver(store, stages, launcher, study=STUDY, max_jobs=max_jobs, poll_s=POLL_S)
    if variant == "with views":
        from midstudy.flows.view import PrefectView
        from midstudy.run.conduct import conduct
        from midstudy.track.sync import default_tracking_uri

        summary = conduct(
            driver,
            store,
            STUDY,
            backend=backend,
            max_jobs=max_jobs,
            on_progress=lambda progress: None,
            tracking_uri=default_tracking_uri(store),
            view_of=PrefectView,
        )
        assert not summary.failed
        print(*summary.warnings, sep="\n", file=sys.stderr)
    else:
        asyncio.run(_drive(driver, list(stages)))
    assert store.published(stages) == set(stages)


async def _drive(driver: Any, stages: list[str]) -> None:
    async with driver:
        await asyncio.gather(*(driver.finished(stage) for stage in stages))


# -- measurement -----------------------------------------------------------------------------------------------------


def measure(variant: str, num_stages: int, payload_s: float, backend: str) -> dict[str, float]:
    """Run a variant in this process; return its wall time, its CPU time and its children's, and its peak memory."""
    names = grid(num_stages)
    # Slurm's nodes read it too, so it must not be private to one node.
    with tempfile.TemporaryDirectory(prefix="midstudy-orchestration-") as folder:
        started = time.perf_counter()
        if variant == "submitit":
            run_submitit(Path(folder), names, payload_s, backend)
        else:
            run_midstudy(Path(folder), names, payload_s, backend, variant)
        wall_s = time.perf_counter() - started
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "wall_s": wall_s,
        "driver_cpu_s": own.ru_utime + own.ru_stime,
        "children_cpu_s": children.ru_utime + children.ru_stime,
        "driver_mb": own.ru_maxrss / 1024,
    }


def table(results: dict[str, list[dict[str, float]]], num_stages: int, payload_s: float, backend: str) -> str:
    """Return medians as a Markdown table."""
    lines = [
        "| | makespan | relative to submitit | overhead per stage, CPU-seconds | of it in the driver | driver memory |",
        "|---|---|---|---|---|---|",
    ]
    plain_s = statistics.median(run["wall_s"] for run in results["submitit"])
    for variant, runs in results.items():
        wall_s, driver_s, children_s, driver_mb = (
            statistics.median(run[name] for run in runs)
            for name in ("wall_s", "driver_cpu_s", "children_cpu_s", "driver_mb")
        )
        overhead_s = (driver_s + children_s) / num_stages - payload_s
        overhead = f"{overhead_s:.3f}" if backend == "local" else "(the cluster's)"
        lines.append(
            f"| {variant} | {wall_s:.1f} s | {wall_s / plain_s:.2f} × | {overhead} | {driver_s / num_stages:.3f} "
            f"| {driver_mb:.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the overhead of running a study.")
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--payload-s", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--backend", choices=tuple(VARIANTS), default="local")
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.stages, options.payload_s, options.backend)))
        return
    paths = os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])
    size = ["--stages", str(options.stages), "--payload-s", str(options.payload_s), "--backend", options.backend]
    results: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for variant in options.variants or VARIANTS[options.backend]:
            done = subprocess.run(
                [sys.executable, __file__, *size, "--measure", variant],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            )
            results.setdefault(variant, []).append(json.loads(done.stdout.splitlines()[-1]))
            print(variant, results[variant][-1], file=sys.stderr, flush=True)
    print(f"{options.stages} stages of {options.payload_s:g} CPU-seconds, {options.backend}, {options.rounds} rounds;")
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print(table(results, options.stages, options.payload_s, options.backend))


if __name__ == "__main__":
    main()
