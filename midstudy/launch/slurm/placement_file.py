"""Read a cluster's placement file: the Slurm resources and compute placement of jobs, by stage kind and model size.

    [default]                     all stages
    [size.410m]                   stages with a model of this size
    [kind.evaluation]             stages with this role in the study, of any size
    [kind.sft.size.410m]          stages of this kind and size
    [jobs]                        number of jobs and how full they are packed
    [driver]                      the job in which `run --detach` runs the driver

Each of the first four tables, and `driver`, may set any field of `Resources`; the first four also any field of
`midstudy.train.placement.Placement`. Tables further down this list override those above. No field affects a stage's id.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.recipe.errors import RecipeError, inside, require_kind, require_number, require_positive
from midstudy.recipe.shape import SHAPE_NAMES
from midstudy.recipe.stage import ROLES, Stage
from midstudy.train.placement import Placement

_PARTS_OF_A_GPU = ("gres", "tres-per-task", "tres-per-job")
"""sbatch parameters that can request part of a GPU: a shard, MPS or a MIG device."""

_RESERVED = ("array", "error", "job-name", "open-mode", "output", "parsable", "requeue", "no-requeue", "signal", "wait")
"""sbatch parameters that the launcher sets itself."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources that a job requests from Slurm.

    `None` leaves the choice to the cluster. `gpus_per_node` and `memory_gb` are per node, `cpus_per_task` is per rank.
    `sbatch` holds further sbatch parameters (`{exclude = "n7"}`; true for options without a value). `setup` holds lines of
    bash that run before Python starts.

    Raises:
        RecipeError: a field holds an invalid value.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    memory_gb: float | None = None
    time_limit_min: int = 60
    sbatch: tuple[tuple[str, str | int | bool], ...] = ()
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("partition", "account", "qos", "constraint"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value or not value.isprintable()):
                raise RecipeError(name, got=repr(value), expected="a name, in quotes")
        require_positive("nodes", self.nodes, unit="nodes")
        require_number("gpus_per_node", self.gpus_per_node, 0, what="a whole number of GPUs")
        require_kind("gpus_per_node", self.gpus_per_node, int, expected="a whole number of GPUs")
        require_positive("cpus_per_task", self.cpus_per_task, unit="CPUs")
        if self.memory_gb is not None:
            require_number("memory_gb", self.memory_gb, 0.001, what="a number of GB")
        require_positive("time_limit_min", self.time_limit_min, unit="minutes")
        for name, value in self.sbatch:
            if name in _RESERVED:
                raise RecipeError(f"sbatch.{name}", got=value, expected=f"parameters other than {', '.join(_RESERVED)}")
            if not isinstance(value, str | int) or (isinstance(value, str) and not value.isprintable()):
                raise RecipeError(f"sbatch.{name}", got=value, expected="a text on one line, a whole number, or true")
        for line in self.setup:
            require_kind("setup", line, str, expected="a list of lines of bash, in quotes")


@dataclass(frozen=True, kw_only=True)
class JobPlacement:
    """Resources and compute placement of a job. Only stages with equal placements share a job.

    Raises:
        RecipeError: the resources do not fit the compute placement.
    """

    resources: Resources
    compute: Placement

    def __post_init__(self) -> None:
        nodes, ranks = self.resources.nodes, self.compute.num_ranks
        if ranks % nodes:
            raise RecipeError("num_ranks", got=ranks, expected=f"a multiple of the {nodes} nodes")
        if self.compute.num_threads > self.resources.cpus_per_task:
            raise RecipeError(
                "num_threads",
                got=self.compute.num_threads,
                expected=f"at most cpus_per_task, which is {self.resources.cpus_per_task}",
            )
        has_part = any(name in _PARTS_OF_A_GPU for name, _ in self.resources.sbatch)
        if self.compute.device == "cuda" and self.resources.gpus_per_node < self.ranks_per_node and not has_part:
            raise RecipeError(
                "gpus_per_node",
                got=self.resources.gpus_per_node,
                expected=f"at least {self.ranks_per_node}, one per rank, or part of a GPU among the sbatch parameters",
                fix='Or set device = "cpu". `scontrol show node` lists parts, such as sbatch = { gres = "shard:1" }.',
            )

    @property
    def ranks_per_node(self) -> int:
        """Ranks on each node."""
        return self.compute.num_ranks // self.resources.nodes


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """How many jobs of a study are in the queue at a time, and how full they are packed.

    `budget_s` is the expected seconds after which no more stages are added to a job. `poll_s` is the seconds between two
    queries of the controller, which all users of the cluster share.

    Raises:
        RecipeError: a field holds an invalid value.
    """

    at_a_time: int = 100
    budget_s: float = 600.0
    poll_s: float = 5.0

    def __post_init__(self) -> None:
        require_positive("at_a_time", self.at_a_time, unit="jobs")
        require_number("budget_s", self.budget_s, 0.0, what="a number of seconds")
        require_number("poll_s", self.poll_s, 0.1, what="a number of seconds")


_RESOURCES = tuple(field.name for field in dataclasses.fields(Resources))
_COMPUTE = tuple(field.name for field in dataclasses.fields(Placement))


@dataclass(frozen=True)
class PlacementFile:
    """The contents of a placement file. `rules` maps (kind, size), each of which may be None, to the fields it sets."""

    rules: Mapping[tuple[str | None, str | None], Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    jobs: Jobs = dataclasses.field(default_factory=Jobs)
    driver: Resources = dataclasses.field(default_factory=Resources)

    @property
    def uses_gpus(self) -> bool:
        """True if any table sets `device = "cuda"`."""
        return any(rule.get("device") == "cuda" for rule in self.rules.values())

    def place(self, stage: Stage) -> JobPlacement:
        """Return the placement of a stage.

        Raises:
            RecipeError: the tables that apply to the stage contradict each other.
        """
        return self._merged(stage.role, stage.model)

    def _merged(self, kind: str | None, size: str | None) -> JobPlacement:
        fields: dict[str, Any] = {}
        path = "default"
        for key in ((None, None), (None, size), (kind, None), (kind, size)):
            if key in self.rules:
                fields |= self.rules[key]
                path = _path(key)
        with inside(path):
            return JobPlacement(
                resources=Resources(**{name: value for name, value in fields.items() if name in _RESOURCES}),
                compute=_placement({name: value for name, value in fields.items() if name in _COMPUTE}),
            )


def read_placement_file(path: Path) -> PlacementFile:
    """Read the placement file at `path`.

    Raises:
        ValueError: the file cannot be read, is not TOML, or has an invalid field; the message names the file and the
            field's dotted path.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--placement {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        return _parse(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"--placement {path}: not TOML ({error})") from None
    except RecipeError as error:
        raise ValueError(f"--placement {path}: {error}") from None


def _parse(tables: dict[str, Any]) -> PlacementFile:
    _require_keys("", tables, ("default", "size", "kind", "jobs", "driver"))
    rules: dict[tuple[str | None, str | None], dict[str, Any]] = {(None, None): _rule("default", tables.get("default", {}))}
    for size, rule in _named("size", tables.get("size", {}), SHAPE_NAMES):
        rules[None, size] = _rule(f"size.{size}", rule)
    for kind, rule in _named("kind", tables.get("kind", {}), ROLES):
        own = dict(rule)
        for size, narrower in _named(f"kind.{kind}.size", own.pop("size", {}), SHAPE_NAMES):
            rules[kind, size] = _rule(f"kind.{kind}.size.{size}", narrower)
        rules[kind, None] = _rule(f"kind.{kind}", own)
    _require_keys("jobs", tables.get("jobs", {}), [field.name for field in dataclasses.fields(Jobs)])
    _require_keys("driver", tables.get("driver", {}), _RESOURCES)
    with inside("jobs"):
        jobs = Jobs(**tables.get("jobs", {}))
    driver = {**{"time_limit_min": 24 * 60, "memory_gb": 2.0}, **_plain("driver", tables.get("driver", {}))}
    with inside("driver"):
        file = PlacementFile(rules, jobs, Resources(**driver))
    for key in rules:  # report all errors before any stage runs
        file._merged(*key)
    return file


def _named(path: str, table: Any, allowed: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    _require_keys(path, table, allowed)
    for name, rule in table.items():
        require_kind(f"{path}.{name}", rule, dict, expected="a table")
    return list(table.items())


def _rule(path: str, table: Any) -> dict[str, Any]:
    _require_keys(path, table, (*_RESOURCES, *_COMPUTE))
    return _plain(path, table)


def _plain(path: str, table: dict[str, Any]) -> dict[str, Any]:
    """Convert TOML's lists and tables to the tuples that the fields hold."""
    fields = dict(table)
    if "setup" in fields:
        require_kind(f"{path}.setup", fields["setup"], list, expected="a list of lines of bash, in quotes")
        fields["setup"] = tuple(fields["setup"])
    if "sbatch" in fields:
        require_kind(f"{path}.sbatch", fields["sbatch"], dict, expected="a table of sbatch parameters")
        fields["sbatch"] = tuple(sorted((name.replace("_", "-"), value) for name, value in fields["sbatch"].items()))
    return fields


def _placement(fields: dict[str, Any]) -> Placement:
    try:
        return Placement(**fields)
    except RecipeError as error:  # its path starts with the command-line option's field
        path = error.path.removeprefix("placement.")
        raise RecipeError(path, got=error.got, expected=error.expected, fix=error.fix) from None


def _require_keys(path: str, table: Any, allowed: Any) -> None:
    require_kind(path or "the file", table, dict, expected="a table")
    for name in table:
        if name not in allowed:
            raise RecipeError(
                f"{path}.{name}" if path else name, got="an unknown name", expected=f"one of {', '.join(allowed)}"
            )


def _path(key: tuple[str | None, str | None]) -> str:
    kind, size = key
    parts = [f"kind.{kind}"] if kind else []
    parts += [f"size.{size}"] if size else []
    return ".".join(parts) or "default"
