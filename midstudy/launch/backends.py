"""Backends by name, and the live jobs of a store across all backends."""

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
    """Return the launcher of a backend. The optional arguments are needed only to start jobs, not to follow or end them.

    Args:
        placement, gpus: for local and debug, see `LocalLauncher`.
        placements, stages, on_notice: for Slurm, see `SlurmLauncher`.

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
    raise ValueError(f"expected backend local, slurm or debug, got {backend!r}")


def by_backend(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    """Group jobs by the name of their backend."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.backend, []).append(job)
    return groups


def slurm_places(store: Store, jobs: Iterable[Job]) -> dict[str, str]:
    """Return the Slurm id, node and state of the jobs that are on Slurm, by job name, as text for the user."""
    from midstudy.launch.slurm.launcher import SlurmLauncher

    on_slurm = by_backend(jobs).get("slurm")
    return SlurmLauncher(store).places(on_slurm) if on_slurm else {}


def live_jobs(store: Store, stage_ids: Iterable[str] | None = None) -> list[Job]:
    """Return the jobs that run, are queued or are about to be submitted; only those with one of `stage_ids`, if given."""
    wanted = None if stage_ids is None else frozenset(stage_ids)
    jobs = [job for job in unended_jobs(store) if wanted is None or wanted.intersection(job.stage_ids)]
    groups = by_backend(jobs).items()
    live = {name for backend, group in groups for name in launcher_of(backend, store).live(group)}
    return [job for job in jobs if job.name in live or job.driver.is_alive()]
