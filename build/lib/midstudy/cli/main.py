"""The `midstudy` command: verbs and their options; each verb imports what it needs when it runs.

`--help` answers in a tenth of a second because nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence

from midstudy import environment, streams

DEFAULT_STORE = "store"
PRICED_DEVICES = ("cpu-core", "h100", "h200")
"""Names of `midstudy.plan.device`, which is not imported to answer `--help`."""


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {_found(text)}; allowed: a whole number of at least 1")
    return int(text)


def _hours(text: str) -> float:
    """A finite number: no plan needs more than nan or infinite hours."""
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 <= hours < math.inf:
        raise argparse.ArgumentTypeError(f"found {_found(text)}; allowed: a number of hours of at least 0")
    return hours


def _found(text: str) -> str:
    return text.strip() or "nothing (is a variable not set?)"


def _named(text: str) -> str:
    """A path or name; not empty, as an unset shell variable would make it."""
    if not text.strip():
        raise argparse.ArgumentTypeError("found nothing; allowed: a path or name. Is a variable not set?")
    return text


def _source(text: str) -> str:
    """A `--data` value: SOURCE or NAME=SOURCE."""
    name, separator, source = text.partition("=")
    if not name.strip() or (separator and not source.strip()):
        raise argparse.ArgumentTypeError(
            f"found {text.strip() or 'nothing'}; allowed: a folder, wheels or hub:OWNER/SET[:CONFIG]@COMMIT, or NAME= and "
            "one of these. Is a variable not set?"
        )
    return text


def _setting(text: str) -> str:
    """A `--set` value: KEYWORD=VALUE."""
    name, separator, value = text.partition("=")
    if not name.strip() or (separator and not value.strip()):
        raise argparse.ArgumentTypeError(
            f"found {text.strip() or 'nothing'}; allowed: KEYWORD=VALUE, and KEYWORD=\"''\" for an empty text. Is a "
            "variable not set?"
        )
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="midstudy",
        description="Studies of midtraining: which mix, from which step, at which weight, helps which fine-tuning target.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, summary: str, *, reads: bool) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=summary, description=summary)
        one.add_argument(
            "--store",
            type=_named,
            default=os.environ.get("MIDSTUDY_STORE", "").strip() or DEFAULT_STORE,
            metavar="DIR",
            help="folder of all results (default: $MIDSTUDY_STORE, where it is set and not empty, else ./store)",
        )
        if reads:
            one.add_argument("--json", action="store_true", help="print JSON instead of text")
        return one

    def takes_experiment(one: argparse.ArgumentParser) -> None:
        one.add_argument("experiment", type=_named, metavar="EXPERIMENT", help="Python file that defines study(...)")
        one.add_argument(
            "--data",
            action="append",
            type=_source,
            default=[],
            metavar="SOURCE | NAME=SOURCE",
            help="a folder, 'wheels', or hub:OWNER/SET[:CONFIG]@COMMIT, for all corpora and tasks or for one; repeatable",
        )
        one.add_argument(
            "--set",
            action="append",
            type=_setting,
            default=[],
            dest="settings",
            metavar="KEYWORD=VALUE",
            help="a keyword argument of study(...), as a Python literal; repeatable",
        )
        one.add_argument(
            "--price-on",
            choices=PRICED_DEVICES,
            help=f"device whose hours the plan counts (default: {PRICED_DEVICES[0]}; of a run on GPUs h100)",
        )

    def takes_placement(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "--backend", choices=("local", "slurm", "debug"), default="local", help="where stages run (default: local)"
        )
        one.add_argument(
            "--placement",
            type=_named,
            metavar="FILE",
            help="what jobs ask of Slurm and how they compute; `midstudy new FILE` writes one to change",
        )
        one.add_argument(
            "--detach",
            action="store_true",
            help="come back at once: the run goes on as a process, or as a Slurm job, of its own",
        )
        one.add_argument(
            "--jobs",
            type=_at_least_one,
            metavar="N",
            help="jobs at a time (default: what the machine holds, or the placement file says)",
        )
        how = one.add_argument_group("how a stage is computed", "With --backend slurm the placement file says it instead.")
        how.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what computes (default: cpu)")
        how.add_argument("--threads", type=_at_least_one, default=1, metavar="N", help="threads a rank (default: 1)")
        how.add_argument("--ranks", type=_at_least_one, default=1, metavar="N", help="processes that share a training step")
        how.add_argument(
            "--micro-batch",
            type=_at_least_one,
            metavar="N",
            help="sequences of a rank that pass through the model at a time (default: all of its share)",
        )
        how.add_argument("--compile", action="store_true", dest="compiled", help="let torch.compile generate the kernels")
        how.add_argument("--chunked-loss", action="store_true", help="a GPU's loss in chunks: less memory, more time")
        how.add_argument(
            "--jobs-per-gpu", type=_at_least_one, default=1, metavar="N", help="small jobs that share a GPU (default: 1)"
        )

    def takes_tracking(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "--tracking-uri",
            type=_named,
            metavar="URI",
            help="MLflow's address (default: $MLFLOW_TRACKING_URI, else a SQLite file in the store)",
        )

    def takes_study(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "study", type=_named, metavar="STUDY", nargs="?", help="name of a study in the store (default: the only one)"
        )

    new = verbs.add_parser("new", help="Write a commented experiment, or a placement on Slurm, to change.")
    new.description = "Write a commented example to change: an experiment, or what jobs ask of Slurm and how they compute."
    new.set_defaults(store=DEFAULT_STORE)
    new.add_argument("file", type=_named, metavar="FILE", help="file to make: NAME.py an experiment, NAME.toml a placement")

    plan = verb("plan", "Show what a study would run, what is already there and what it would cost.", reads=True)
    takes_experiment(plan)

    run = verb("run", "Run a study: train, evaluate, compare, report. Finished stages are reused.", reads=False)
    takes_experiment(run)
    takes_placement(run)
    takes_tracking(run)
    run.add_argument("--max-gpu-hours", type=_hours, metavar="H", help="refuse a plan that needs more device hours")

    status = verb("status", "Show which stages of a study are finished, running, failed or waiting.", reads=True)
    takes_study(status)

    logs = verb("logs", "Print the log of a stage.", reads=True)
    logs.add_argument(
        "stage", type=_named, metavar="STAGE", help="id of a stage, or part of its name; a part of several lists them"
    )
    logs.add_argument("--study", type=_named, metavar="STUDY", help="name of a study in the store (default: the only one)")
    logs.add_argument("--lines", type=_at_least_one, default=40, metavar="N", help="last lines to print (default: 40)")

    retry = verb("retry", "Clear failed stages of a study and run what is missing.", reads=False)
    takes_study(retry)
    takes_placement(retry)
    takes_tracking(retry)
    retry.add_argument(
        "stages", type=_named, metavar="STAGE", nargs="*", help="failed stages to run again (default: all of them)"
    )

    cancel = verb("cancel", "Cancel the running jobs of a study; finished stages stay.", reads=False)
    takes_study(cancel)

    report = verb("report", "Write the report of a study from what is finished.", reads=True)
    takes_study(report)

    track = verb("track", "Bring MLflow up to what the store says; an emptied one is filled again.", reads=True)
    track.add_argument("action", choices=("sync",), help="sync: make and complete the runs of a study")
    takes_study(track)
    takes_tracking(track)

    ui = verb("ui", "Show the store in MLflow and Prefect, on this machine only, until Ctrl-C.", reads=False)
    takes_tracking(ui)

    clean = verb("clean", "Show what could be freed in the store, and why the rest stays; --yes frees it.", reads=True)
    clean.add_argument("--yes", action="store_true", help="free it (default: only show)")
    clean.add_argument(
        "--unreferenced", action="store_true", help="free finished stages, too, that no study asks for any more"
    )

    explain = verb("explain", "Show which fields make two stages different.", reads=True)
    explain.add_argument("left", type=_named, metavar="A", help="id of a stage (or its first digits), or its name")
    explain.add_argument("right", type=_named, metavar="B", help="the other stage")

    export = verb("export", "Write a trained state as a folder that other software loads.", reads=True)
    export.add_argument(
        "stage", type=_named, metavar="STAGE", help="id of a state, or part of its name; a part of several lists them"
    )
    export.add_argument("--to", choices=("hf",), required=True, help="hf: Hugging Face transformers, model and tokenizer")
    export.add_argument("--output", type=_named, metavar="DIR", help="folder to make (default: ./NAME-ID)")
    export.add_argument("--study", type=_named, metavar="STUDY", help="name of a study in the store (default: the only one)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 the study has failures, 2 the input is wrong, 130 interrupted."""
    if arguments is None:  # with arguments, the process belongs to another program
        environment.take_over()
        streams.prepare()
    options = _parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        environment.require_readable([one for one in options.arguments if options.store not in one])
        environment.require_current_folder(options.store)
        from midstudy.cli import commands

        status = getattr(commands, options.verb)(options)
        return status or streams.lost()
    except KeyboardInterrupt:
        if options.verb in ("run", "retry"):
            print(
                "interrupted: running jobs are cancelled, finished stages stay; the same command goes on.", file=sys.stderr
            )
        return 130
    except (ValueError, OSError) as error:
        print(f"midstudy {options.verb}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
