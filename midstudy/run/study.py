"""The steps of a run before and after its driver: plan against the store, check the limits, freeze, write the report.

The command line and the deployed flows share these functions, so both make the same stages and the same report.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midstudy.launch.slurm.placement_file import PlacementFile
    from midstudy.plan.cost import Throughput
    from midstudy.plan.planner import Plan
    from midstudy.recipe.manifest import Manifest
    from midstudy.recipe.study import Study
    from midstudy.store.store import Store
    from midstudy.train.placement import Placement


_CLAIMS_SHOWN = 5
"""A terminal shows so many claims one by one; the report shows all."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how stages are computed: the arguments of `midstudy.run.conduct.run_study` besides the study.

    On Slurm, `placements` gives a placement per stage kind and model size. Elsewhere all jobs use one `placement` and share
    the GPUs `gpus`.
    """

    backend: str
    max_jobs: int
    placement: Placement | None = None
    gpus: tuple[str, ...] = ()
    placements: PlacementFile | None = None
    placement_file: Path | None = None

    def require(self, root: Path) -> None:
        """Check that the backend can be used from this machine with a store at `root`.

        Raises:
            ValueError: Slurm's commands are missing, or its nodes cannot access the store.
        """
        if self.backend == "slurm":
            from midstudy.launch.slurm.commands import SlurmCommands

            SlurmCommands().require(Path(os.path.abspath(root)))

    @property
    def threads_a_job(self) -> int:
        """Threads of all ranks of a job; 1 if there is no single placement."""
        return self.placement.num_threads * self.placement.num_ranks if self.placement is not None else 1

    @property
    def most_jobs(self) -> int:
        """Number of jobs that this machine's cores can run at a time."""
        from midstudy.environment import num_cores

        return max(1, num_cores() // self.threads_a_job)

    @property
    def uses_gpus(self) -> bool:
        """True if stages are priced as GPU stages."""
        if self.placements is not None:
            return self.placements.uses_gpus
        return self.placement is not None and self.placement.device == "cuda"


def place(
    *,
    backend: str,
    placement_file: Path | None,
    device: str,
    jobs: int | None,
    threads: int,
    ranks: int,
    micro_batch: int | None,
    compiled: bool,
) -> Place:
    """Return the `Place` that the options of a run describe.

    Args:
        jobs: jobs at a time; by default as many as the machine holds, or the number in the placement file.

    Raises:
        ValueError: the device does not exist, or the backend does not support an option.
        RecipeError: the placement's options contradict each other.
    """
    from midstudy.environment import num_cores
    from midstudy.train.environment import visible_gpus
    from midstudy.train.placement import Placement

    placement = Placement(
        device=device,
        num_threads=threads,
        num_ranks=ranks,
        micro_batch=micro_batch,
        compiled=compiled,
    )
    if backend == "slurm":
        return _on_slurm(placement_file, placement, jobs=jobs)
    if placement_file is not None:
        raise ValueError(f"--placement: expected with --backend slurm only, got --backend {backend}.")
    if backend == "debug" and ranks > 1:
        raise ValueError(
            f"--ranks: expected 1 with --backend debug, which is one process, got {ranks}; use --backend local."
        )
    gpus = visible_gpus() if placement.device == "cuda" else ()
    if gpus and placement.num_ranks > len(gpus):
        raise ValueError(f"--ranks: expected at most the number of visible GPUs, {len(gpus)}, got {placement.num_ranks}.")
    num_slots = len(gpus) if gpus else num_cores() // placement.num_threads
    max_jobs = jobs or max(1, num_slots // placement.num_ranks)
    return Place(backend=backend, placement=placement, gpus=gpus, max_jobs=max_jobs)


def _on_slurm(placement_file: Path | None, given: Placement, *, jobs: int | None) -> Place:
    from midstudy.launch.slurm.placement_file import read_placement_file
    from midstudy.train.placement import Placement

    options = {"num_threads": "threads", "num_ranks": "ranks", "compiled": "compile"}
    for field in fields(Placement):
        if getattr(given, field.name) != field.default:
            option = options.get(field.name, field.name).replace("_", "-")
            raise ValueError(
                f"--{option}: not an option with --backend slurm; set it in the placement file, by stage kind and size."
            )
    if placement_file is None or not placement_file.exists():
        raise ValueError(
            f"--placement: expected with --backend slurm a file that says what jobs request, got {placement_file or 'none'}."
            " `midstudy new placement.toml` writes an example; adapt it to your cluster's partitions."
        )
    placements = read_placement_file(placement_file)
    max_jobs = jobs or placements.jobs.at_a_time
    return Place(backend="slurm", placements=placements, placement_file=placement_file, max_jobs=max_jobs)


def plan_experiment(
    experiment: str,
    store: Store | None,
    *,
    data: Sequence[str],
    settings: Sequence[str],
    where: Place | None = None,
    price_on: str | None = None,
) -> Plan:
    """Load the study of an experiment file and plan it against the contents of a store.

    Args:
        data: `--data` arguments; see `midstudy.data.data_args.DataChoice`.
        settings: `KEYWORD=VALUE` arguments for the experiment's `study(...)`.
        where: what will compute; by default the place of a run without options. If no finished stage of the store ran on
            this processor, it is calibrated, which takes seconds. Slurm nodes are other machines and are not calibrated.
        price_on: name of the device whose hours the plan counts, at measured rates where the store has them; by default
            the device of `where`.

    Raises:
        RecipeError: a field of the study is wrong.
        ValueError: the experiment file itself raises, an evaluation's split is empty, or a claim cannot be judged on this
            grid, for example because it selects several cells where its estimator takes one.
        StoreError: the store cannot be read.
    """
    from midstudy.plan.experiment import load_study
    from midstudy.plan.packed import counts_in
    from midstudy.plan.steps_of import StepsOf

    counts_of = counts_in(store)
    steps_of = StepsOf(counts_of)
    study = load_study(Path(experiment), data=data, settings=settings, steps_of=steps_of)
    plan = plan_study(study, store, where=where, price_on=price_on)
    counts = {packing.id: counts_of(packing) for packing in steps_of.asked.values()}
    unresolved = {packing.id: packing for packing in plan.unresolved}
    unresolved |= {packing_id: packing for packing_id, packing in steps_of.asked.items() if counts[packing_id].is_estimated}
    return replace(plan, epochs={**counts, **plan.epochs}, unresolved=tuple(unresolved.values()))


def plan_study(study: Study, store: Store | None, *, where: Place | None = None, price_on: str | None = None) -> Plan:
    """Plan a study against the contents of a store; arguments and errors are those of `plan_experiment`."""
    from midstudy.data.source import require_rows
    from midstudy.plan.cost import Throughput, measured_throughput
    from midstudy.plan.device import CPU_CORE, DEVICES, H100
    from midstudy.plan.left_out import left_out_of
    from midstudy.plan.manifest import manifest_of
    from midstudy.plan.packed import counts_in
    from midstudy.plan.planner import make_plan
    from midstudy.plan.published import PublishedStates, published_states
    from midstudy.recipe.data import Task
    from midstudy.store.processor import this_processor

    counts_of = counts_in(store)
    for evaluation in study.evaluations():
        require_rows(evaluation.data.source, split=evaluation.split, is_task=isinstance(evaluation.data, Task))
    where = where or _here()
    processor, num_threads = (this_processor(), where.threads_a_job) if where.placement else (None, 1)
    states = published_states(store, processor=processor, num_threads=num_threads) if store else PublishedStates()
    default = H100 if where.uses_gpus else CPU_CORE
    priced = DEVICES[price_on or default.name]
    throughput = Throughput(
        priced,
        measured_throughput(states.rates.get(priced.name, ())),
        tokenising_bytes_per_s=states.tokenising_bytes_per_s,
    )

    def plan_at(throughput: Throughput) -> Plan:
        return make_plan(
            study,
            throughput=throughput,
            published=store.published if store else lambda ids: set(),
            kept_states=states.kept,
            counts_of=counts_of,
        )

    plan = plan_at(throughput)
    if study.claims:
        from midstudy.analysis.rehearsal import rehearse

        rehearse(manifest_of(plan, command=""))
    if processor is not None and priced is CPU_CORE and price_on is None and plan.workloads:
        calibrated = _calibrated(replace(throughput, emulates_bfloat16=not processor.has_bfloat16), plan, where)
        plan = plan_at(calibrated) if calibrated.calibrated else replace(plan, throughput=calibrated)
    return replace(plan, left_out=left_out_of(store, plan.stages)) if store else plan


def _here() -> Place:
    """Return the place of a run without options: every core of this machine."""
    from midstudy.environment import num_cores
    from midstudy.train.placement import Placement

    return Place(backend="local", placement=Placement(), max_jobs=num_cores())


def _calibrated(throughput: Throughput, plan: Plan, where: Place) -> Throughput:
    """Return `throughput` with calibrated rates for the plan's workloads that no finished stage has measured.

    Where bfloat16 is emulated, fp32 is calibrated too, for comparison.
    """
    from midstudy.execute.calibration import Machine, calibrate, calibrated

    workloads = list(plan.workloads)
    if throughput.emulates_bfloat16:
        workloads += [replace(workload, precision="fp32") for workload in workloads if workload.precision != "fp32"]
    unknown = [workload for workload in dict.fromkeys(workloads) if not throughput.is_measured(workload)]
    if not unknown:
        return throughput
    machine = Machine(num_threads=where.threads_a_job, num_jobs=min(where.max_jobs, where.most_jobs))
    known = calibrated(unknown, machine)
    throughput = replace(throughput, calibrated=known)
    began = time.perf_counter()
    if unknown := [workload for workload in unknown if not throughput.is_measured(workload)]:
        known = {**calibrate(unknown, machine), **known}
        throughput = replace(throughput, calibrated=known, calibration_s=time.perf_counter() - began)
    return throughput


def forecast_s(plan: Plan, where: Place | None = None) -> float | None:
    """Return the expected wall-clock seconds of a run of the plan, without queueing time.

    None if the plan is priced on another kind of device than the one that will compute it.

    Args:
        where: what will compute, as in `plan_experiment`.
    """
    from midstudy.launch.forecast import forecast
    from midstudy.plan.device import CPU_CORE

    where = where or _here()
    if where.uses_gpus == (plan.throughput.device.name == CPU_CORE.name):
        return None
    budget: dict[str, Any] = {} if where.placements is None else {"job_budget_s": where.placements.jobs.budget_s}
    return forecast(plan.stages, published=plan.published, num_jobs=where.max_jobs, **budget).wall_s


def begin(root: Path, plan: Plan, where: Place, *, command: str, max_gpu_hours: float | None) -> Store:
    """Request the plan's missing stages from the store and freeze the study in it. Return the store.

    Args:
        root: the store's folder; the store is created if it does not exist.
        where: its placement file is copied beside the manifest, for `retry`.
        command: the command that runs the study, kept in its manifest.
        max_gpu_hours: limit on the plan's device hours; None for no limit.

    Raises:
        ValueError: the plan needs more device hours than `max_gpu_hours`, or more disk than is free, or text that is only
            declared. Nothing is written, and no store is made.
        StoreError: the store cannot be written.
    """
    from midstudy.plan.manifest import manifest_of
    from midstudy.plan.summary import hours
    from midstudy.store.store import Store
    from midstudy.store.study_manifest import freeze

    _require_text(plan)
    device_hours = plan.missing_s / 3600
    if max_gpu_hours is not None and device_hours > max_gpu_hours:
        raise ValueError(
            f"--max-gpu-hours: the plan needs {hours(device_hours)} of one {plan.throughput.device.title}, "
            f"more than the limit of {hours(max_gpu_hours)}. Raise the limit, or plan fewer arms or shorter training."
        )
    disk = Path(os.path.abspath(root))
    while not disk.exists():
        disk = disk.parent
    free_bytes = shutil.disk_usage(disk).free
    if plan.missing_bytes > free_bytes:
        raise ValueError(
            f"{root}: {free_bytes / 1e9:.2f} GB are free; the plan writes {plan.missing_bytes / 1e9:.2f} GB of "
            "checkpoints. Free space, name another folder with --store, or plan fewer arms."
        )
    store = Store.open(root, create=True)
    for stage in plan.missing:
        store.request(stage)
    freeze(store, manifest_of(plan, command=command))
    if where.placement_file is not None:
        shutil.copyfile(where.placement_file, store.paths.placement_file(plan.study.name))
    return store


def _require_text(plan: Plan) -> None:
    """Raise `ValueError` if a data set or a tokenizer is only declared; the message has the options that give it."""
    from midstudy.recipe.data import ReleasedTokenizer, sources_of

    sources = [part for data in plan.study.datasets() for part in sources_of(data.source)]
    sources += [stage.recipe.source for stage in plan.stages.values() if isinstance(stage.recipe, ReleasedTokenizer)]
    missing = dict.fromkeys(source for source in sources if source.kind == "declared")
    if missing:
        raise ValueError(
            f"{plan.study.name}: expected the text of every data set, got names alone, with which a study can only be "
            "planned. Give each; a COMMIT is the 40 hex digits that the page of a set on the Hub shows under its history, a "
            "FOLDER holds JSONL or Parquet files:\n" + "\n".join(f"  {source.note}   {source.part}" for source in missing)
        )


def command_line(experiment: str, *, data: Sequence[str], settings: Sequence[str]) -> str:
    """Return the shell command that runs a study, as its manifest and report show it."""
    parts = ["midstudy", "run", experiment]
    parts += [part for source in data for part in ("--data", source)]
    parts += [part for setting in settings for part in ("--set", setting)]
    return shlex.join(parts)


def write_report(store: Store, manifest: Manifest) -> Path:
    """Write the tables and the report of a study from its finished stages; record the look at its claims.

    Returns the path of the report's page.
    """
    from midstudy.analysis.recorded_look import record_look
    from midstudy.analysis.tables import write_tables
    from midstudy.report.notebook import render

    folder = store.paths.study(manifest.name)
    record_look(store, write_tables(store, manifest, folder))
    return render(folder)


def verdicts(store: Store, manifest: Manifest) -> list[dict[str, str]]:
    """Return text, measured value and verdict of every claim, as `write_report` wrote them.

    Verdicts are `yes`, `no` or `inconclusive`; the report and the terminal call the last one undecided.
    """
    import csv

    with (store.paths.study(manifest.name) / "claims.csv").open(encoding="utf-8", newline="") as file:
        return [{name: row[name] for name in ("text", "ours", "verdict")} for row in csv.DictReader(file)]


def verdict_lines(judged: Sequence[Mapping[str, str]]) -> list[str]:
    """Return how many claims have which verdict and, of a few claims, each with its own; nothing without claims."""
    if not judged:
        return []
    numbers = Counter(row["verdict"] for row in judged)
    called = {"yes": "yes", "no": "no", "inconclusive": "undecided"}
    lines = [f"verdicts on claims: {', '.join(f'{word} {numbers[verdict]}' for verdict, word in called.items())}"]
    if len(judged) <= _CLAIMS_SHOWN:
        lines += [f"  {called[row['verdict']]}: {row['text']}: {row['ours']}" for row in judged]
    return lines


def answer(store: Store, manifest: Manifest) -> str:
    """Return the answer to the study's question, a few sentences, as `write_report` wrote it."""
    return (store.paths.study(manifest.name) / "answer.txt").read_text("utf-8").strip()
