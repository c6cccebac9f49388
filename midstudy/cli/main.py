"""The `midstudy` command: its verbs and their options. Each verb imports what it needs when it runs.

Nothing heavy is imported here, so `--help` takes a tenth of a second.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence

from midstudy import environment, streams

DEFAULT_STORE = "store"
PRICED_DEVICES = ("cpu-core", "a100", "h100")
"""Device names of `midstudy.plan.device`, repeated here because `--help` must not import that module."""

COMPARE_MEASURES = (
    "js", "combined", "cosine", "jaccard",
    "jsd_nats", "js_distance", "hellinger", "total_variation", "kl_nats", "reverse_kl_nats",
)  # fmt: skip
"""Measures of `midstudy.similarity.measures`, repeated here for the same reason."""


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {_shown(text)}")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {_shown(text)}")
    return int(text)


def _hours(text: str) -> float:
    """Parse a finite, non-negative number of hours; NaN or infinity would limit nothing."""
    if not 0 <= (hours := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of hours of at least 0, got {_shown(text)}")
    return hours


def _share(text: str) -> float:
    if not 0 < (share := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share of the tokens between 0 and 1, got {_shown(text)}")
    return share


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _duration_s(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)", text.strip())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"expected a duration above 0, as 10min, 90s or 1h, got {_shown(text)}")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]


def _shown(text: str) -> str:
    return text.strip() or "nothing (is a variable not set?)"


def _temperature(text: str) -> float:
    try:
        temperature = float(text)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature < math.inf:
        raise argparse.ArgumentTypeError(f"expected a temperature of at least 0, got {_shown(text)}")
    return temperature


def _named(text: str) -> str:
    """Accept a path or name; reject an empty one, which an unset shell variable leaves."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path or name, got nothing. Is a variable not set?")
    return text


def _source(text: str) -> str:
    """Check a `--data` value: SOURCE or NAME=SOURCE."""
    expected = "a folder, wheels or hub:OWNER/SET[:CONFIG]@COMMIT, or NAME= and one of these"
    return _with_value(text, expected=expected)


def _setting(text: str) -> str:
    """Check a `--set` value: KEYWORD=VALUE."""
    return _with_value(text, expected="KEYWORD=VALUE, and KEYWORD=\"''\" for an empty string")


def _with_value(text: str, *, expected: str) -> str:
    """Accept a text, with something after its first `=`; reject what an unset shell variable leaves."""
    name, separator, value = text.partition("=")
    if not name.strip() or (separator and not value.strip()):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text.strip() or 'nothing'}. Is a variable not set?")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="midstudy",
        description="Studies of midtraining: which mix, from which step, at which weight, helps which fine-tuning target.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, summary: str, *, reads: bool) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=summary, description=summary)
        command.add_argument(
            "--store",
            type=_named,
            default=os.environ.get("MIDSTUDY_STORE", "").strip() or DEFAULT_STORE,
            metavar="DIR",
            help="folder of all results (default: $MIDSTUDY_STORE if set and not empty, else ./store)",
        )
        if reads:
            command.add_argument("--json", action="store_true", help="print JSON instead of text")
        return command

    def add_experiment(command: argparse.ArgumentParser) -> None:
        command.add_argument("experiment", type=_named, metavar="EXPERIMENT", help="Python file that defines study(...)")
        command.add_argument(
            "--data",
            action="append",
            type=_source,
            default=[],
            metavar="SOURCE | NAME=SOURCE",
            help="a folder, 'wheels', or hub:OWNER/SET[:CONFIG]@COMMIT, for all corpora and tasks or for one, which may "
            "also be a file and may declare ,text=FIELD, ,prompt=FIELD,completion=FIELD and ,share=NUMBER; repeatable",
        )
        command.add_argument(
            "--set",
            action="append",
            type=_setting,
            default=[],
            dest="settings",
            metavar="KEYWORD=VALUE",
            help="a keyword argument of study(...), as a Python literal; repeatable",
        )
        command.add_argument(
            "--price-on",
            choices=PRICED_DEVICES,
            help=f"device whose hours the plan counts (default: {PRICED_DEVICES[0]}; h100 for a run on GPUs)",
        )

    def add_placement(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--backend", choices=("local", "slurm", "debug"), default="local", help="where stages run (default: local)"
        )
        command.add_argument(
            "--placement",
            type=_named,
            metavar="FILE",
            help="the resources jobs request from Slurm and how they compute; `midstudy new FILE.toml` writes an example",
        )
        command.add_argument(
            "--detach",
            action="store_true",
            help="return immediately; the run continues as a separate process or Slurm job",
        )
        command.add_argument(
            "--jobs",
            type=_at_least_one,
            metavar="N",
            help="jobs at a time (default: as many as the machine holds, or the number in the placement file)",
        )
        how = command.add_argument_group(
            "how a stage is computed", "With --backend slurm the placement file sets these instead."
        )
        how.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="compute device (default: cpu)")
        how.add_argument("--threads", type=_at_least_one, default=1, metavar="N", help="threads per rank (default: 1)")
        how.add_argument(
            "--ranks", type=_at_least_one, default=1, metavar="N", help="processes that share a training step (default: 1)"
        )
        how.add_argument(
            "--micro-batch",
            type=_at_least_one,
            metavar="N",
            help="sequences per rank in one forward pass (default: the rank's whole share)",
        )
        how.add_argument("--compile", action="store_true", dest="compiled", help="let torch.compile generate the kernels")

    def add_tracking(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--tracking-uri",
            type=_named,
            metavar="URI",
            help="MLflow's address (default: $MLFLOW_TRACKING_URI, else a SQLite file in the store)",
        )

    def add_study(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "study", type=_named, metavar="STUDY", nargs="?", help="name of a study in the store (default: the only one)"
        )

    new = verbs.add_parser("new", help="Write a commented example to edit: an experiment or a Slurm placement.")
    new.description = "Write a commented example to edit: an experiment, or the resources jobs request from Slurm."
    new.set_defaults(store=DEFAULT_STORE)
    new.add_argument("file", type=_named, metavar="FILE", help="file to create: NAME.py or NAME.toml")

    plan = verb("plan", "Show what a study would run, what is already finished and what it would cost.", reads=True)
    add_experiment(plan)

    plan.add_argument(
        "--makespan",
        type=_named,
        metavar="gpus=N[,...]",
        help="simulate how long it takes on N GPUs; with gpus_per_job=N, preempted_every=6h, time_limit=24h",
    )
    plan.add_argument(
        "--budget-gpu-hours",
        type=_hours,
        metavar="H",
        help="plan the largest of the experiment's nested grids that H device hours allow (default device: h100)",
    )

    allocate = verb(
        "allocate", "Propose the next seeds: which undecided claims they would decide, and the cost.", reads=True
    )
    add_experiment(allocate)
    allocate.add_argument(
        "--budget", type=_hours, metavar="HOURS", help="device hours that the next run may cost (default: no limit)"
    )

    run = verb("run", "Run a study: train, evaluate, compare, report. Finished stages are reused.", reads=False)
    add_experiment(run)
    add_placement(run)
    add_tracking(run)
    run.add_argument("--max-gpu-hours", type=_hours, metavar="H", help="reject a plan that needs more device hours")

    status = verb("status", "Show which stages of a study are finished, running, failed, skipped or waiting.", reads=True)
    add_study(status)

    logs = verb("logs", "Print the log of a stage.", reads=True)
    logs.add_argument(
        "stage", type=_named, metavar="STAGE", help="id of a stage, or part of its name; an ambiguous part lists the matches"
    )
    logs.add_argument("--study", type=_named, metavar="STUDY", help="name of a study in the store (default: the only one)")
    logs.add_argument(
        "--lines", type=_at_least_one, default=40, metavar="N", help="number of last lines to print (default: 40)"
    )

    retry = verb("retry", "Clear failed stages of a study and run what is missing.", reads=False)
    add_study(retry)
    add_placement(retry)
    add_tracking(retry)
    retry.add_argument(
        "stages", type=_named, metavar="STAGE", nargs="*", help="failed stages to run again (default: all of them)"
    )

    cancel = verb("cancel", "Cancel the running jobs of a study; finished stages are kept.", reads=False)
    add_study(cancel)

    report = verb("report", "Write the report of a study from its finished stages.", reads=True)
    add_study(report)

    track = verb("track", "Update MLflow from the store; an empty MLflow is filled again.", reads=True)
    track.add_argument("action", choices=("sync",), help="sync: create and complete the MLflow runs of a study")
    add_study(track)
    add_tracking(track)

    ui = verb("ui", "Show the store in MLflow and Prefect, on this machine only, until Ctrl-C.", reads=False)
    add_tracking(ui)

    clean = verb("clean", "Show what can be freed in the store, and why the rest is kept; --yes frees it.", reads=True)
    clean.add_argument("--yes", action="store_true", help="free it (default: only show)")
    clean.add_argument(
        "--unreferenced", action="store_true", help="also free finished stages that no study requests any more"
    )

    explain = verb("explain", "Show the recipe fields in which two stages differ.", reads=True)
    explain.add_argument("left", type=_named, metavar="A", help="id of a stage (or its first digits), or its name")
    explain.add_argument("right", type=_named, metavar="B", help="the other stage")

    compared = verb("compare-studies", "Show two studies side by side: arms, effects, claims, recipes.", reads=True)
    compared.add_argument("left", type=_named, metavar="A", help="name of a study in the store")
    compared.add_argument("right", type=_named, metavar="B", help="name of the other study")
    compared.add_argument(
        "--other-store", type=_named, metavar="DIR", help="folder of B's results (default: the same store)"
    )

    corpora = verb("compare", "Compare corpora: similarity of every pair, by bytes, words, tokens or a model.", reads=True)
    corpora.description = (
        "Compare the train text of corpora: exact measures of every pair, at equal sizes, with intervals over documents and "
        "the ceiling of two halves of one corpus."
    )
    corpora.add_argument(
        "texts",
        type=_named,
        nargs="+",
        metavar="NAME=SOURCE",
        help="a folder, a file, 'wheels', or hub:OWNER/SET[:CONFIG]@COMMIT; of wheels and a folder, the part NAME. Fields "
        "and shares are declared as for --data: NAME=FOLDER,text=FIELD,share=0.7",
    )
    corpora.add_argument(
        "--over",
        action="append",
        default=[],
        type=_named,
        metavar="VIEW",
        help="what is compared: bytes:N, words:N, chars:N, a range as words:1-4 (the mean over its orders), tokens, "
        "compression; by the model of a state in the store, embedding:STAGE (mean hidden states) or gradients:STAGE (of the "
        "loss); repeatable (default: bytes:3, words:1-2 and, with a tokenizer, tokens)",
    )
    corpora.add_argument(
        "--tokenizer",
        type=_named,
        metavar="TOKENIZER",
        help="a tokenizer.json, a folder that holds one, hub:OWNER/NAME@COMMIT, or a tokenizer or state of the store",
    )
    corpora.add_argument(
        "--equal",
        choices=("units", "bytes", "none"),
        default="units",
        help="what both sides of a comparison have equally many of; none: whole corpora (default: units)",
    )
    corpora.add_argument(
        "--measure",
        choices=COMPARE_MEASURES,
        default=COMPARE_MEASURES[0],
        help="what is printed and plotted; --json has all (default: js, 1 / (1 + Jensen-Shannon divergence))",
    )
    corpora.add_argument(
        "--authors",
        action="store_true",
        help="only the bridging paper's combined score, by its published procedure and constants; needs --tokenizer",
    )
    corpora.add_argument("--plot", type=_named, metavar="FILE", help="also draw the matrices: a .png, .svg or .pdf file")

    recommended = verb(
        "recommend", "Rank candidate corpora for a target before any training, by byte n-gram experts.", reads=True
    )
    recommended.description = (
        "Rank candidate corpora for a fine-tuning target before any training: expected gain in bits per byte on the "
        "target's dev split, what it costs on general text, which candidates cannot be told apart, copies, and "
        "contamination with the target's test split, which is rejected."
    )
    text_form = (
        "a folder, 'wheels', or hub:OWNER/SET[:CONFIG]@COMMIT, with ,text=FIELD or ,prompt=FIELD,completion=FIELD where "
        "needed; of wheels and a folder, the part NAME"
    )
    recommended.add_argument(
        "--target", type=_named, required=True, metavar="NAME=SOURCE", help=f"the task, with its splits: {text_form}"
    )
    recommended.add_argument(
        "--general",
        type=_named,
        required=True,
        nargs="+",
        metavar="NAME=SOURCE",
        help=f"general text: {text_form}; or a file; or several sources of one NAME, each with ,share=NUMBER",
    )
    recommended.add_argument(
        "--candidates",
        type=_named,
        required=True,
        nargs="+",
        metavar="NAME=SOURCE",
        help="corpora to choose from, as --general",
    )
    recommended.add_argument(
        "--share", type=_share, required=True, metavar="SHARE", help="a candidate's share of the tokens, as 0.2"
    )
    recommended.add_argument("--plot", type=_named, metavar="FILE", help="also draw the ranking: a .png, .svg or .pdf file")

    recommended.add_argument(
        "--proxy",
        type=_duration_s,
        metavar="DURATION",
        help="also train small models with each candidate for about so long, as 10min, 90s or 1h, in the store",
    )

    def add_state(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "stage",
            type=_named,
            metavar="STAGE",
            help="id of a state, or part of its name; an ambiguous part lists the matches",
        )
        command.add_argument(
            "--study", type=_named, metavar="STUDY", help="name of a study in the store (default: the only one)"
        )

    def add_decoding(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--tokens", type=_at_least_one, default=128, metavar="N", help="most new tokens of a text (default: 128)"
        )
        command.add_argument(
            "--temperature",
            type=_temperature,
            default=0.0,
            metavar="T",
            help="0: the most likely token each time (default); above: sampled, more evenly the higher",
        )
        command.add_argument(
            "--top-k", type=_at_least_one, metavar="K", help="sample among the K most likely tokens (default: all)"
        )
        command.add_argument("--seed", type=_whole, default=0, metavar="N", help="seed of the samples (default: 0)")

    sample = verb("sample", "Let a trained state continue a text.", reads=True)
    add_state(sample)
    sample.add_argument(
        "--prompt", action="append", required=True, type=_named, metavar="TEXT", help="text to continue; repeatable"
    )
    sample.add_argument(
        "--as-user", action="store_true", help="the prompt is a user's message, and the state answers as the assistant"
    )
    sample.add_argument("--samples", type=_at_least_one, default=1, metavar="N", help="texts per prompt (default: 1)")
    add_decoding(sample)

    verify = verb("verify", "Make a finished evaluation again and compare it with the published one.", reads=True)
    verify.add_argument("stage", type=_named, metavar="STAGE", help="id of an evaluation, or part of its name")
    verify.add_argument("--study", type=_named, metavar="STUDY", help="name of a study in the store (default: the only one)")

    chat = verb("chat", "Talk with a state that was trained on conversations, until an empty line.", reads=False)
    add_state(chat)
    add_decoding(chat)

    export = verb("export", "Write a trained state as a folder that other software loads.", reads=True)
    add_state(export)
    export.add_argument("--to", choices=("hf",), required=True, help="hf: Hugging Face transformers, model and tokenizer")
    export.add_argument("--output", type=_named, metavar="DIR", help="folder to create (default: ./NAME-ID)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit status: 0 done, 1 the study has failures, 2 the input is wrong, 130 interrupted."""
    if arguments is None:  # with arguments, another program owns this process
        environment.take_over()
        streams.prepare()
    options = _parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        environment.require_current_folder(options.store)
        from midstudy.cli import commands

        status = getattr(commands, options.verb.replace("-", "_"))(options)
        return status or streams.lost()
    except KeyboardInterrupt:
        if options.verb in ("run", "retry"):
            print(
                "interrupted: running jobs are cancelled, finished stages are kept; the same command resumes the run.",
                file=sys.stderr,
            )
        return 130
    except (ValueError, OSError) as error:
        print(f"midstudy {options.verb}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
