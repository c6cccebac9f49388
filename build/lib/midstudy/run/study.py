"""What running a study is, around its driver: plan against the store, check that it fits, freeze; at the end its report.

The command line and the deployed flows both call these, so that they make the same stages and the same report.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midstudy.launch.slurm.placement_file import PlacementFile
    from midstudy.plan.cost import Throughput
    from midstudy.plan.planner import Plan
    from midstudy.recipe.manifest import Manifest
    from midstudy.store.store import Store
    from midstudy.train.placement import Placement


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how stages are computed: what `midstudy.run.conduct.run_study` takes beside the study.

    On Slurm that is `placements`, for each kind of stage and size; elsewhere one `placement` and the GPUs to share out.
    """

    backend: str
    max_jobs: int
    placement: Placement | None = None
    gpus: tuple[str, ...] = ()
    placements: PlacementFile | None = None
    placement_file: Path | None = None

    def require(self, root: Path) -> None:
        """Check that the backend can be used from here, with a store at `root`.

        Raises:
            ValueError: Slurm's commands are missing, or its nodes cannot see the store.
        """
        if self.backend == "slurm":
            from midstudy.launch.slurm.commands import SlurmCommands

            SlurmCommands().require(Path(os.path.abspath(root)))

    @property
    def threads_a_job(self) -> int:
        """Threads of all ranks of a job, where one placement holds for all."""
        return self.placement.num_threads * self.placement.num_ranks if self.placement is not None else 1

    @property
    def most_jobs(self) -> int:
        """Jobs that this machine's cores hold at a time."""
        from midstudy.environment import num_cores

        return max(1, num_cores() // self.threads_a_job)

    @property
    def uses_gpus(self) -> bool:
        """Whether stages are priced as those of a GPU."""
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
    chunked_loss: bool,
    jobs_per_gpu: int,
) -> Place:
    """The place that the options of a run name; without `jobs`, as many as the machine holds or the placement file says.

    Raises:
        ValueError: there is no such device, Slurm is not here, or the backend cannot do it.
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
        chunked_loss=chunked_loss,
        jobs_per_gpu=jobs_per_gpu,
    )
    if backend == "slurm":
        return _on_slurm(placement_file, placement, jobs=jobs)
    if placement_file is not None:
        raise ValueError(f"--placement: found with --backend {backend}; allowed: with --backend slurm.")
    if backend == "debug" and ranks > 1:
        raise ValueError(f"--ranks: found {ranks} with --backend debug, which is one process; use --backend local.")
    gpus = visible_gpus() if placement.device == "cuda" else ()
    if gpus and placement.num_ranks > len(gpus):
        raise ValueError(
            f"--ranks: found {placement.num_ranks}; allowed: at most the {len(gpus)} GPUs that are visible here."
        )
    places = len(gpus) * placement.jobs_per_gpu if gpus else num_cores() // placement.num_threads
    max_jobs = jobs or max(1, places // placement.num_ranks)
    return Place(backend=backend, placement=placement, gpus=gpus, max_jobs=max_jobs)


def _on_slurm(placement_file: Path | None, given: Placement, *, jobs: int | None) -> Place:
    from midstudy.launch.slurm.placement_file import read_placement_file
    from midstudy.train.placement import Placement

    options = {"num_threads": "threads", "num_ranks": "ranks", "compiled": "compile"}
    for field in fields(Placement):
        if getattr(given, field.name) != field.default:
            option = options.get(field.name, field.name).replace("_", "-")
            raise ValueError(
                f"--{option}: found with --backend slurm; allowed: in the placement file, for each kind of stage and size."
            )
    if placement_file is None or not placement_file.exists():
        raise ValueError(
            f"--placement: found {placement_file or 'none'}; allowed with --backend slurm: a file that says what jobs ask "
            "for. `midstudy new placement.toml` writes one; change it to your cluster's partitions."
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
    """The study of an experiment file, planned against what a store holds.

    Args:
        data: `--data` arguments; see `midstudy.data.data_args.DataChoice`.
        settings: `KEYWORD=VALUE` arguments for the experiment's `study(...)`.
        where: what will compute; by default what a run without options takes. The plan counts the hours of its device, as
            fast as it was seen, unless `price_on` names another. A processor that no finished stage of the store tells
            about is calibrated, which takes seconds; not so on Slurm, whose nodes are other machines.

    Raises:
        RecipeError: a field of the study is wrong.
        ValueError: the experiment file itself raises, or an evaluation's split is empty.
        StoreError: the store cannot be read.
    """
    from midstudy.data.source import require_rows
    from midstudy.plan.cost import Throughput, measured_throughput
    from midstudy.plan.device import CPU_CORE, DEVICES, H100
    from midstudy.plan.experiment import load_study
    from midstudy.plan.left_out import left_out_of
    from midstudy.plan.planner import make_plan
    from midstudy.plan.published import PublishedStates, published_states
    from midstudy.recipe.data import Task
    from midstudy.store.processor import this_processor

    study = load_study(Path(experiment), data=data, settings=settings)
    for evaluation in {measure.evaluation for arm in study.arms for measure in arm.measures.values()}:
        require_rows(evaluation.data.source, split=evaluation.split, is_task=isinstance(evaluation.data, Task))
    where = where or _here()
    processor, num_threads = (this_processor(), where.threads_a_job) if where.placement else (None, 1)
    states = published_states(store, processor=processor, num_threads=num_threads) if store else PublishedStates()
    usual = H100 if where.uses_gpus else CPU_CORE
    priced = DEVICES[price_on or usual.name]
    throughput = Throughput(priced, measured_throughput(states.rates.get(priced.name, ())))

    def plan_at(throughput: Throughput) -> Plan:
        return make_plan(
            study,
            throughput=throughput,
            published=store.published if store else lambda ids: set(),
            kept_states=states.kept,
        )

    plan = plan_at(throughput)
    if processor is not None and priced is CPU_CORE and price_on is None and plan.workloads:
        seen = _calibrated(replace(throughput, emulates_bfloat16=not processor.has_bfloat16), plan, where)
        plan = plan_at(seen) if seen.calibrated else replace(plan, throughput=seen)
    return replace(plan, left_out=left_out_of(store, plan.stages)) if store else plan


def _here() -> Place:
    """What a run without options takes: every core of this machine."""
    from midstudy.environment import num_cores
    from midstudy.train.placement import Placement

    return Place(backend="local", placement=Placement(), max_jobs=num_cores())


def _calibrated(throughput: Throughput, plan: Plan, where: Place) -> Throughput:
    """The same with the rates of what the plan trains on this processor and no finished stage tells; of bfloat16 that is
    emulated, with those of fp32 too."""
    from midstudy.execute.calibration import Machine, calibrate, calibrated

    wanted = list(plan.workloads)
    if throughput.emulates_bfloat16:
        wanted += [replace(one, precision="fp32") for one in wanted if one.precision != "fp32"]
    unknown = [one for one in dict.fromkeys(wanted) if not throughput.is_measured(one)]
    if not unknown:
        return throughput
    machine = Machine(num_threads=where.threads_a_job, num_jobs=min(where.max_jobs, where.most_jobs))
    known = calibrated(unknown, machine)
    throughput = replace(throughput, calibrated=known)
    began = time.perf_counter()
    if unknown := [one for one in unknown if not throughput.is_measured(one)]:
        known = {**calibrate(unknown, machine), **known}
        throughput = replace(throughput, calibrated=known, calibration_s=time.perf_counter() - began)
    return throughput


def forecast_s(plan: Plan, where: Place | None = None) -> float | None:
    """Expected seconds on the wall of a run of the plan, without those that jobs wait in a queue; none of a plan that is
    priced on another device than will compute it.

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
    """Ask the store for what is missing and freeze the study in it; returns the store, which is made if need be.

    Args:
        root: the store's folder.
        where: its placement file is kept with the study, for `retry`.
        command: the command that runs the study, kept in its manifest.

    Raises:
        ValueError: the plan needs more device hours than `max_gpu_hours`, or more disk than is free. Nothing is written,
            and no store is made.
        StoreError: the store cannot be written.
    """
    from midstudy.plan.manifest import manifest_of
    from midstudy.plan.summary import hours
    from midstudy.store.store import Store
    from midstudy.store.study_manifest import freeze

    device_hours = plan.missing_s / 3600
    if max_gpu_hours is not None and device_hours > max_gpu_hours:
        raise ValueError(
            f"--max-gpu-hours: the plan needs {hours(device_hours)} of one {plan.throughput.device.title}; "
            f"allowed: {hours(max_gpu_hours)}. Raise the limit, or plan fewer arms or shorter training."
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


def command_line(experiment: str, *, data: Sequence[str], settings: Sequence[str]) -> str:
    """The command that runs a study, as its manifest and report keep it."""
    parts = ["midstudy", "run", experiment]
    parts += [part for one in data for part in ("--data", one)]
    parts += [part for one in settings for part in ("--set", one)]
    return shlex.join(parts)


def write_report(store: Store, manifest: Manifest) -> Path:
    """Write the tables and the report of a study from what is finished; returns the report's page."""
    from midstudy.analysis.tables import write_tables
    from midstudy.report.notebook import render

    folder = store.paths.study(manifest.name)
    write_tables(store, manifest, folder)
    return render(folder)


def answer(store: Store, manifest: Manifest) -> str:
    """The study's question answered in a few sentences, as `write_report` wrote it."""
    return (store.paths.study(manifest.name) / "answer.txt").read_text("utf-8").strip()
