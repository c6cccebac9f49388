"""The backends by name, and which of a store's jobs are there, whichever backend they were given to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from midstudy.launch.job_file import Job, unended_jobs
from midstudy.launch.launcher import Launcher
from midstudy.launch.slurm.placement_file import PlacementFile
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from midstudy.train.placement import Placement


def launcher_of(
    backend: str,
    store: Store,
    *,
    placement: Placement | None = None,
    gpus: Sequence[str] = (),
    placements: PlacementFile | None = None,
    stages: Mapping[str, Stage] | None = None,
    on_notice: Callable[[str], None] = lambda line: None,
) -> Launcher:
    """The launcher of a backend; what it takes is what starts new jobs, and not needed to follow or end old ones.

    Raises:
        ValueError: there is no such backend.
    """
    if backend == "local":
        from midstudy.launch.local import LocalLauncher

        return LocalLauncher(store, placement=placement, gpus=gpus)
    if backend == "debug":
        from midstudy.launch.debug import DebugLauncher

        return DebugLauncher(store, placement=placement, gpus=gpus)
    if backend == "slurm":
        from midstudy.launch.slurm.launcher import SlurmLauncher

        return SlurmLauncher(store, placements, stages, on_notice=on_notice)
    raise ValueError(f"backend {backend!r}; allowed are local, slurm and debug")


def by_backend(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.backend, []).append(job)
    return found


def slurm_places(store: Store, jobs: Iterable[Job]) -> dict[str, str]:
    """Of these jobs those on Slurm, by name: what Slurm calls them and says of them, for people."""
    from midstudy.launch.slurm.launcher import SlurmLauncher

    on_slurm = by_backend(jobs).get("slurm")
    return SlurmLauncher(store).places(on_slurm) if on_slurm else {}


def live_jobs(store: Store, stage_ids: Iterable[str] | None = None) -> list[Job]:
    """The jobs that run or wait in a queue, or that a driver is about to submit; of these stages, if some are given."""
    wanted = None if stage_ids is None else frozenset(stage_ids)
    jobs = [job for job in unended_jobs(store) if wanted is None or wanted.intersection(job.stage_ids)]
    live = {name for backend, some in by_backend(jobs).items() for name in launcher_of(backend, store).live(some)}
    return [job for job in jobs if job.name in live or job.driver.is_alive()]
