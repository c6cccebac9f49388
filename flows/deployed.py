"""The flows that prefect.yaml deploys: what `midstudy run`, `report` and `track sync` do, started from Prefect.

Parameters are checked when a run is created: by the server, against the schema of the signature. What only the experiment or
the store can know (whether a mix has that task, whether the disk is large enough) ends the run at its beginning, with the
message that the command line would print. Defaults are those of the experiments' `study(...)`, and only what differs from
them is handed on, so that a study has the same command however it was started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import Abort
from prefect.states import AwaitingRetry, Cancelled, Completed, Failed, State
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from flows.artifacts import artifact_key
from flows.last_word import WAITING, LastWord
from flows.study_flow import ended_state
from flows.view import PrefectView
from midstudy.data.data_args import DEFAULT
from midstudy.plan.experiment import study_defaults
from midstudy.plan.summary import plan_text
from midstudy.run.conduct import DetachedError, run_study
from midstudy.run.study import answer, begin, command_line, forecast_s, place, plan_experiment, write_report
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.track.client import TrackingError, tracking_uri_of
from midstudy.track.sync import sync

_EXPERIMENTS = Path(__file__).parent.parent / "experiments"

StudyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Size = Literal["nano", "micro", "14m", "31m", "70m", "160m", "410m", "1b"]
Precision = Literal["fp32", "bf16_mixed", "bf16_true"]
Named = Annotated[str, Field(pattern=r"\S")]
"""A path or address; rejects the empty text that an empty form field sends."""
DataSource = Annotated[str, Field(pattern=r"^[^=]*[^=\s][^=]*(=[\s\S]*\S[\s\S]*)?$")]
DataSources = Annotated[tuple[DataSource, ...], Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(gt=0, le=1)]


class Machine(BaseModel):
    """Where stages are computed: part of no id, changes results by rounding at most."""

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
    chunked_loss: bool = Field(default=False, description="A GPU's loss in chunks: less memory, more time.")
    jobs_per_gpu: Count = Field(default=1, description="Small jobs that share a GPU.")
    max_gpu_hours: Rate | None = Field(default=None, description="Refuse a plan that needs more device hours.")


HERE = Machine()


@flow(name="bridging", flow_run_name="{name}", persist_result=False)
def bridging(
    data: DataSources,
    name: StudyName = "bridging_micro",
    sizes: Annotated[tuple[Size, ...], Field(min_length=1)] = ("nano",),
    trunk_seeds: Seeds = (0, 1, 2),
    sft_seeds: Seeds = (1337, 895),
    total_steps: Annotated[int, Field(ge=10)] = 240,
    num_sequences: Count = 8,
    seq_len: Count = 128,
    peak_lr: Rate = 3e-3,
    sft_steps: Count = 36,
    sft_peak_lr: Rate = 1e-3,
    precision: Precision = "fp32",
    full: bool = False,
    machine: Machine = HERE,
) -> State[Any]:
    """The flagship study (`experiments/bridging_micro.py`): which mix, from which step, at which weight, helps which task.

    Args:
        data: Sources, as `--data` takes them: a folder of the worker's machine, `wheels`, or `hub:OWNER/SET@COMMIT` for all
            corpora and tasks; `NAME=SOURCE` for one.
        name: Name of the study in the store; two studies share what they have in common.
        sizes: Model sizes.
        trunk_seeds: Seeds that repeat the experiment.
        sft_seeds: Seeds of fine-tuning, which repeat fine-tuning alone.
        total_steps: Steps of pretraining and midtraining together.
        num_sequences: Sequences of a training step.
        seq_len: Tokens of a sequence.
        peak_lr: Highest learning rate of pretraining and midtraining.
        sft_steps: Steps of fine-tuning.
        sft_peak_lr: Highest learning rate of fine-tuning.
        precision: Arithmetic of training.
        full: Every arm with every pair of seeds.
        machine: Where it runs.
    """
    return _run("bridging_micro.py", data, machine)


@flow(name="timing-weight", flow_run_name="{name}", persist_result=False)
def timing_weight(
    data: DataSources,
    name: StudyName = "timing_weight",
    mix: Literal["code", "math"] = "code",
    size: Size = "nano",
    start_steps: Annotated[tuple[Steps, ...], Field(min_length=1)] = (24, 79, 157, 197),
    weights: Annotated[tuple[Weight, ...], Field(min_length=1)] = (0.1, 0.2, 0.5, 0.8),
    main_start_step: Steps = 24,
    main_weight: Weight = 0.2,
    trunk_seeds: Seeds = (0, 1, 2),
    total_steps: Annotated[int, Field(ge=10)] = 240,
    precision: Precision = "fp32",
    machine: Machine = HERE,
) -> State[Any]:
    """Every start step with every weight of one mix (`experiments/timing_weight.py`).

    Args:
        data: Sources, as `--data` takes them: a folder of the worker's machine, `wheels`, or `hub:OWNER/SET@COMMIT` for all
            corpora and tasks; `NAME=SOURCE` for one.
        name: Name of the study in the store; two studies share what they have in common.
        mix: The midtraining mix; its task is the one it lies closest to.
        size: Model size.
        start_steps: Steps at which midtraining begins.
        weights: Shares of the mix from there on.
        main_start_step: The start step at which the curve over weights is drawn.
        main_weight: The weight at which the curve over start steps is drawn.
        trunk_seeds: Seeds that repeat the experiment.
        total_steps: Steps of pretraining and midtraining together.
        precision: Arithmetic of training.
        machine: Where it runs.
    """
    return _run("timing_weight.py", data, machine)


@flow(name="similarity", flow_run_name="{name} similarity", persist_result=False)
def similarity(data: DataSources, name: StudyName = "bridging_micro", machine: Machine = HERE) -> State[Any]:
    """How close the corpora and mixes of the flagship study are to its tasks; no training.

    Args:
        data: Sources, as `--data` takes them: a folder of the worker's machine, `wheels`, or `hub:OWNER/SET@COMMIT` for all
            corpora and tasks; `NAME=SOURCE` for one.
        name: Name of the study whose data are compared; the comparison is kept beside it as NAME_similarity.
        machine: Where it runs.
    """
    return _run("bridging_micro.py", data, machine, similarity_only=True)


@flow(name="report", flow_run_name="report of {study}", persist_result=False)
def report(study: StudyName, store: Named | None = None) -> State[Any]:
    """Write the tables and the report of a study from what is finished.

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
    """Bring MLflow up to what the store says; what is current is left alone.

    Args:
        studies: Names of studies in the store; by default all.
        store: Folder of all results; by default $MIDSTUDY_STORE of the worker, else ./store.
        tracking_uri: MLflow's address; by default the SQLite file in the store.
    """
    root = _store(store)
    if store is None and not (root / "store.json").exists():
        return Completed(message=f"{root}: no store yet, nothing to send")
    told, failed = [], []
    try:
        opened = Store.open(root)
        for name in studies or opened.studies():
            try:
                made = sync(opened, name, tracking_uri=tracking_uri_of(opened, tracking_uri))
                told.append(f"{name}: {made.created} runs made, {made.updated} completed, {made.unchanged} current")
            except TrackingError as error:
                failed.append(f"{name}: {error}")
    except (ValueError, OSError) as error:
        _end(Failed(message=str(error)))
    if failed:
        _end(Failed(message="\n".join(failed + told)))
    return Completed(message="\n".join(told) or "no study in the store yet")


def _run(experiment: str, data: tuple[str, ...], machine: Machine, *, similarity_only: bool = False) -> State[Any]:
    """Run a study in this flow run as `midstudy run` does; returns its state where all went well.

    A run that was told to leave its jobs running is scheduled again, for whichever worker is there next: it follows them.
    """
    # A worker that is killed leaves our output without a reader; at the next logged line rich would end this process.
    Console.on_broken_pipe = _be_quiet  # type: ignore[method-assign, assignment]
    logger = get_run_logger()
    path = _EXPERIMENTS / experiment
    shown = os.path.relpath(path)
    sources = () if data == (DEFAULT,) else data
    try:
        settings = _settings(path, runtime.flow_run.parameters)
        options = machine.model_dump(exclude={"store", "placement", "max_gpu_hours"})
        where = place(placement_file=Path(machine.placement) if machine.placement else None, **options)
        root = _store(machine.store)
        where.require(root)
        plan = plan_experiment(
            shown, Store.found(root), data=sources, settings=settings, where=where, similarity_only=similarity_only
        )
        command = command_line(shown, data=sources, settings=settings, similarity_only=similarity_only)
        store = begin(root, plan, where, command=command, max_gpu_hours=machine.max_gpu_hours)
        logger.info("%s\n%s", command, plan_text(plan, forecast_s=forecast_s(plan, where)))
        manifest = load(store, plan.study.name)
        with LastWord(runtime.flow_run.id):
            summary = run_study(
                store,
                plan.stages,
                plan.study.name,
                backend=where.backend,
                max_jobs=where.max_jobs,
                placement=where.placement,
                gpus=where.gpus,
                placements=where.placements,
                on_notice=logger.warning,
                when_done=lambda: logger.info("report: %s", write_report(store, manifest)),
                view_of=partial(PrefectView, in_flow_run=True),
            )
    except (ValueError, OSError) as error:
        _end(Failed(message=str(error)))
    except KeyboardInterrupt:
        _end(Cancelled(message="its jobs are cancelled, finished stages stay; run it again to go on"))
    except DetachedError:
        _end(AwaitingRetry(message=WAITING))
    for warning in summary.warnings:
        logger.warning(warning)
    logger.info(answer(store, manifest))
    state = ended_state(
        manifest["stages"], failed=summary.failed, num_skipped=len(summary.skipped), num_reused=len(summary.reused)
    )
    return state if state.is_completed() else _end(state)


def _be_quiet(console: Console) -> None:
    console.quiet = True


def _settings(path: Path, parameters: Mapping[str, Any]) -> list[str]:
    """`--set` arguments for those parameters of a flow run that are not what the experiment would take anyway."""
    return [
        f"{name}={parameters[name]!r}"
        for name, default in study_defaults(path).items()
        if name in parameters and parameters[name] != default
    ]


def _end(state: State[Any]) -> NoReturn:
    """End this flow run in `state`. A state that is returned would be raised by Prefect, with a traceback through itself.

    Raises:
        Abort: always; Prefect takes it as the end of the run.
    """
    get_run_logger().error(state.message)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(runtime.flow_run.id, state, force=True)
    raise Abort(state.message)


def _store(folder: str | None) -> Path:
    return Path(folder or os.environ.get("MIDSTUDY_STORE", "").strip() or "store")
