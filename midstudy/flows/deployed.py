"""Flows for deployments: `midstudy run`, `report` and `track sync`, started from Prefect.

The server checks parameters against the schema of the signature when a run is created. What only the experiment or the
store can know (whether a mix has that task, whether the disk is large enough) fails the run at its start, with the message
that the command line would print. Defaults are those of the experiment's `study(...)`, and only parameters that differ from
them are passed on, so that a study has the same command however it was started.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from prefect import Flow, flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import Abort
from prefect.states import AwaitingRetry, Cancelled, Completed, Failed, State
from prefect.utilities.callables import parameter_docstrings
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from midstudy.data.data_args import DEFAULT
from midstudy.flows.artifacts import artifact_key
from midstudy.flows.killed_run import WAITING, KilledRunGuard
from midstudy.flows.study_flow import ended_state
from midstudy.flows.view import PrefectView
from midstudy.plan.experiment import study_docstring, study_parameters
from midstudy.plan.planner import Plan
from midstudy.run.conduct import DetachedError, RunSummary, run_study
from midstudy.run.described import plan_text
from midstudy.run.study import answer, begin, command_line, forecast_s, place, plan_experiment, write_report
from midstudy.run.whole_epochs import with_whole_epochs
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.track.client import TrackingError, tracking_uri_of
from midstudy.track.sync import sync

StudyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Named = Annotated[str, Field(pattern=r"\S")]
"""A path or address; an empty form field sends empty text, which this rejects."""
_KEY = "(?:text|prompt|completion|messages|share)"
_WRONG_DECLARATIONS = (
    rf"^[^=]*=\s*,{_KEY}=",  # no place before the first
    rf",{_KEY}=\s*(,{_KEY}=|$)",  # no value
    rf",({_KEY})=.*,\1=",  # one given twice
    r",text=.*,(prompt|completion|messages)=",
    r",(prompt|completion|messages)=.*,text=",
    r",messages=.*,(prompt|completion)=",
    r",(prompt|completion)=.*,messages=",
    r"^(?!.*,completion=).*,prompt=",
    r"^(?!.*,prompt=).*,completion=",
    r",share=(?!\s*[\d./eE+-]+\s*(,|$))",
)
"""What `SourceArgument.parse` rejects, for the schema that the server checks; pydantic's own patterns cannot look ahead.
Whether the shares of a name add up to 1 is checked when a run starts."""

DataSource = Annotated[
    str,
    Field(
        pattern=r"^([^=]*[^=\s][^=]*|[^=,]*[^=,\s][^=,]*=[\s\S]*\S[\s\S]*)$",
        json_schema_extra={"not": {"anyOf": [{"pattern": wrong} for wrong in _WRONG_DECLARATIONS]}},
    ),
]
DataSources = Annotated[tuple[DataSource, ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class Machine(BaseModel):
    """How stages are computed. Not hashed; changes results by rounding at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: Named | None = Field(
        default=None, description="Folder of all results; by default $MIDSTUDY_STORE of the worker, else ./store."
    )
    backend: Literal["local", "slurm", "debug"] = Field(default="local", description="Where stages run.")
    placement: Named | None = Field(
        default=None, description="With slurm: the TOML file that says what jobs ask for, on the worker's machine."
    )
    jobs: Count | None = Field(default=None, description="Jobs at a time; by default what the machine holds.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="What computes.")
    threads: Count = Field(default=1, description="Threads of a rank.")
    ranks: Count = Field(default=1, description="Processes that share a training step.")
    micro_batch: Count | None = Field(
        default=None, description="Sequences that pass through the model at a time; by default all."
    )
    compiled: bool = Field(default=False, description="Let torch.compile generate the kernels.")
    max_gpu_hours: Rate | None = Field(default=None, description="Refuse a plan that needs more device hours.")


HERE = Machine()


def flow_of(experiment: Path, *, name: str) -> Flow[..., State[Any]]:
    """Return a flow that runs an experiment file; its parameters are the keywords of the experiment's `study(...)`.

    Args:
        experiment: the file; its `study(...)` gives types and defaults.
        name: name of the flow.

    Raises:
        RecipeError: no such file, or no `study` function.
    """
    keywords = study_parameters(experiment)
    if "name" in keywords:
        keywords["name"] = keywords["name"].replace(annotation=StudyName)
    described = {keyword: f"`{keyword}` of study(...) in {experiment.name}." for keyword in keywords}
    described |= _meanings(study_docstring(experiment))
    described |= {"data": _DATA, "name": "Name of the study in the store.", "machine": "Where it runs."}

    def run(**given: Any) -> State[Any]:
        return _run(experiment, given["data"], given["machine"])

    kind = inspect.Parameter.KEYWORD_ONLY
    signature = [
        inspect.Parameter("data", kind, annotation=DataSources),
        *(
            one.replace(kind=kind, annotation=StudyName if one.name == "name" else one.annotation)
            for one in keywords.values()
        ),
        inspect.Parameter("machine", kind, annotation=Machine, default=HERE),
    ]
    run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in signature} | {"return": State[Any]}
    arguments = "\n".join(f"    {one.name}: {described[one.name]}" for one in signature)
    run.__doc__ = f"What `midstudy run {experiment.name}` does.\n\nArgs:\n{arguments}\n"
    return flow(name=name, flow_run_name="{name}", persist_result=False)(run)


def _meanings(docstring: str) -> dict[str, str]:
    """Return what a docstring's arguments mean, by name, as sentences; an entry may name several: `size, steps: ...`."""
    return {
        name.strip(): meaning[:1].upper() + " ".join(meaning[1:].split())
        for names, meaning in parameter_docstrings(docstring).items()
        for name in names.split(",")
    }


_DATA = (
    "Sources, as `--data` takes them: a folder of the worker's machine, `wheels`, or `hub:OWNER/SET[:CONFIG]@COMMIT` for "
    "all corpora and tasks; `NAME=SOURCE` for one, also a file. Fields are declared after it: `NAME=SOURCE,text=FIELD`, "
    "`NAME=SOURCE,prompt=FIELD,completion=FIELD`, or `NAME=SOURCE,messages=FIELD`. A corpus of several sources is given "
    "several times, each with its share of the bytes: `NAME=SOURCE,share=0.7` and `NAME=OTHER,text=FIELD,share=0.3`."
)


@flow(name="report", flow_run_name="report of {study}", persist_result=False)
def report(study: StudyName, store: Named | None = None) -> State[Any]:
    """Write the tables and the report of a study from its finished stages.

    Args:
        study: Name of a study in the store.
        store: Folder of all results; by default $MIDSTUDY_STORE of the worker, else ./store.
    """
    try:
        opened = Store.open(_store(store))
        manifest = load(opened, study)
        page = write_report(opened, manifest)
        text = answer(opened, manifest)
    except (ValueError, OSError) as error:
        _end(Failed(message=str(error)))
    create_markdown_artifact(
        f"# {study}\n\n{text}\n\nReport: `{page}`\n", artifact_key(study, "report"), "The report of a study"
    )
    return Completed(message=f"{text}\nreport: {page}")


@flow(name="track-sync", persist_result=False)
def track_sync(
    studies: tuple[StudyName, ...] = (),
    store: Named | None = None,
    tracking_uri: Named | None = None,
) -> State[Any]:
    """Update MLflow from the store.

    Args:
        studies: Names of studies in the store; by default all.
        store: Folder of all results; by default $MIDSTUDY_STORE of the worker, else ./store.
        tracking_uri: MLflow's address; by default the SQLite file in the store.
    """
    root = _store(store)
    if store is None and not (root / "store.json").exists():
        return Completed(message=f"{root}: no store yet, nothing to sync")
    reports, failed = [], []
    try:
        opened = Store.open(root)
        for name in studies or opened.studies():
            try:
                made = sync(opened, name, tracking_uri=tracking_uri_of(opened, tracking_uri))
                reports.append(f"{name}: {made.created} runs made, {made.updated} completed, {made.unchanged} current")
            except TrackingError as error:
                failed.append(f"{name}: {error}")
    except (ValueError, OSError) as error:
        _end(Failed(message=str(error)))
    if failed:
        _end(Failed(message="\n".join(failed + reports)))
    return Completed(message="\n".join(reports) or "no study in the store yet")


def _run(experiment: Path, data: tuple[str, ...], machine: Machine) -> State[Any]:
    """Run a study in this flow run as `midstudy run` does, and return its final state if all stages finished.

    A run that was detached from its jobs is scheduled again, so that the next worker follows them.
    """
    # If the worker is killed, our output has no reader, and rich would end this process at the next logged line.
    Console.on_broken_pipe = _be_quiet  # type: ignore[method-assign, assignment]
    logger = get_run_logger()
    shown = os.path.relpath(experiment)
    sources = () if data == (DEFAULT,) else data
    try:
        settings = _settings(experiment, runtime.flow_run.parameters)
        options = machine.model_dump(exclude={"store", "placement", "max_gpu_hours"})
        where = place(placement_file=Path(machine.placement) if machine.placement else None, **options)
        root = _store(machine.store)
        where.require(root)
        command = command_line(shown, data=sources, settings=settings)

        def plan_in(store: Store | None) -> Plan:
            return plan_experiment(shown, store, data=sources, settings=settings, where=where)

        def conduct(store: Store, plan: Plan, when_done: Callable[[], None] = lambda: None) -> RunSummary:
            with KilledRunGuard(runtime.flow_run.id):
                return run_study(
                    store,
                    plan.stages,
                    plan.study.name,
                    backend=where.backend,
                    max_jobs=where.max_jobs,
                    placement=where.placement,
                    gpus=where.gpus,
                    placements=where.placements,
                    on_notice=logger.warning,
                    when_done=when_done,
                    view_of=partial(PrefectView, in_flow_run=True),
                )

        def make(store: Store, data_plan: Plan) -> Mapping[str, str]:
            logger.info("%s\n%s", command, plan_text(data_plan, store))
            return conduct(store, data_plan).failed

        plan = plan_in(Store.open_existing(root))
        plan = with_whole_epochs(plan, root, where, command=command, make=make, plan_again=plan_in)
        store = begin(root, plan, where, command=command, max_gpu_hours=machine.max_gpu_hours)
        logger.info("%s\n%s", command, plan_text(plan, store, forecast_s=forecast_s(plan, where)))
        manifest = load(store, plan.study.name)
        summary = conduct(store, plan, lambda: logger.info("report: %s", write_report(store, manifest)))
    except (ValueError, OSError) as error:
        _end(Failed(message=str(error)))
    except KeyboardInterrupt:
        _end(Cancelled(message="its jobs are cancelled, finished stages are kept; run it again to continue"))
    except DetachedError:
        _end(AwaitingRetry(message=WAITING))
    for warning in summary.warnings:
        logger.warning(warning)
    logger.info(answer(store, manifest))
    state = ended_state(
        manifest.stages, failed=summary.failed, num_skipped=len(summary.skipped), num_reused=len(summary.reused)
    )
    return state if state.is_completed() else _end(state)


def _be_quiet(console: Console) -> None:
    console.quiet = True


def _settings(path: Path, parameters: Mapping[str, Any]) -> list[str]:
    """Return `--set` arguments for the parameters that differ from the experiment's defaults, as a person writes them."""
    return [
        f"{name}={_written(parameters[name], one.default)}"
        for name, one in study_parameters(path).items()
        if name in parameters and parameters[name] != one.default
    ]


def _written(value: Any, default: Any) -> str:
    """Return a value as `--set` takes it: text without quotation marks where the default is text, too."""
    is_plain = isinstance(value, str) and isinstance(default, str) and value == value.strip("'\"")
    return str(value) if is_plain else repr(value)


def _end(state: State[Any]) -> NoReturn:
    """End this flow run in `state`. Prefect would raise a returned state, with a traceback of its internals.

    Raises:
        Abort: always; it ends the run.
    """
    get_run_logger().error(state.message)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(runtime.flow_run.id, state, force=True)
    raise Abort(state.message)


def _store(folder: str | None) -> Path:
    return Path(folder or os.environ.get("MIDSTUDY_STORE", "").strip() or "store")
