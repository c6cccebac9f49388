"""What running a study costs beside its stages: a grid of equal payloads through midstudy and through plain submitit.

    python benchmarks/orchestration.py [--stages 1000] [--payload-s 2] [--rounds 1] [--backend local | slurm]

The grid has three levels: a tenth of a tenth of the stages are roots, each with nine children, each with ten leaves. A stage
may start when its parent is done. Its payload is so many seconds of CPU time. What is compared, in alternation:

    submitit   a loop of twenty lines: submit what is ready, at most as many as there are cores, look five times a second
    midstudy   the driver, one stage a job
    with views the same through the flow, as `midstudy run` does it: Prefect with a server of its own, and MLflow
    packed     the driver, several stages a job

Each run is a process of its own. CPU time is that of the process and of everything it waited for, less the payloads' own.
On Slurm that time is the cluster's, so there only the makespan is compared, and jobs are bounded by the cluster alone.
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
    """Names of the stages with their parents' names, parents first."""
    found: list[tuple[str, str | None]] = []
    for root in range(num_stages):
        found.append((f"r{root}", None))
        for child in range(9):
            found.append((f"r{root}c{child}", f"r{root}"))
            found += [(f"r{root}c{child}l{leaf}", f"r{root}c{child}") for leaf in range(10)]
        if len(found) >= num_stages:
            break
    return found[:num_stages]


# -- plain submitit ---------------------------------------------------------------------------------------------------


def run_submitit(folder: Path, names: list[tuple[str, str | None]], payload_s: float, backend: str) -> None:
    """The loop that one writes without midstudy."""
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
    """The same grid as a frozen study."""
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

    class OneStageAJob:
        def pack_key(self, stage: Stage) -> Hashable:
            return variant == "packed" or stage.id

    class Local(OneStageAJob, LocalLauncher):
        pass

    class Slurm(OneStageAJob, SlurmLauncher):
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
    entries = {identity: stage_entry(stage) for identity, stage in stages.items()}
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
        await asyncio.gather(*(driver.finished(one) for one in stages))


# -- one run and all of them ------------------------------------------------------------------------------------------


def measure(variant: str, num_stages: int, payload_s: float, backend: str) -> dict[str, float]:
    """Run a variant in this process; its time on the clock, its CPU time and that of its children, and its most memory."""
    names = grid(num_stages)
    # Slurm's nodes read it, too; the usual temporary folder may be private to one of them.
    with tempfile.TemporaryDirectory(prefix="midstudy-orchestration-") as folder:
        began = time.perf_counter()
        if variant == "submitit":
            run_submitit(Path(folder), names, payload_s, backend)
        else:
            run_midstudy(Path(folder), names, payload_s, backend, variant)
        wall_s = time.perf_counter() - began
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "wall_s": wall_s,
        "driver_cpu_s": own.ru_utime + own.ru_stime,
        "children_cpu_s": children.ru_utime + children.ru_stime,
        "driver_mb": own.ru_maxrss / 1024,
    }


def table(results: dict[str, list[dict[str, float]]], num_stages: int, payload_s: float, backend: str) -> str:
    """Medians as a Markdown table."""
    lines = [
        "| | makespan | beside submitit | CPU-seconds a stage beyond its payload | of them in the driver | driver memory |",
        "|---|---|---|---|---|---|",
    ]
    plain_s = statistics.median(one["wall_s"] for one in results["submitit"])
    for variant, runs in results.items():
        wall_s, driver_s, children_s, driver_mb = (
            statistics.median(one[name] for one in runs)
            for name in ("wall_s", "driver_cpu_s", "children_cpu_s", "driver_mb")
        )
        beyond_s = (driver_s + children_s) / num_stages - payload_s
        beyond = f"{beyond_s:.3f}" if backend == "local" else "(the cluster's)"
        lines.append(
            f"| {variant} | {wall_s:.1f} s | {wall_s / plain_s:.2f} × | {beyond} | {driver_s / num_stages:.3f} "
            f"| {driver_mb:.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What running a study costs beside its stages.")
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--payload-s", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--backend", choices=tuple(VARIANTS), default="local")
    parser.add_argument("--variants", nargs="+", help="default: all of them")
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
