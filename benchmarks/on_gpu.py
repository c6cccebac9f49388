"""GPU tests and benchmarks for a machine with Python 3.12, PyTorch, NumPy, safetensors, tokenizers and pip, but no index.

    python benchmarks/on_gpu.py --collect wheels                      # with a package index: 33 wheels, 30 MB
    python benchmarks/on_gpu.py --wheels wheels --output on_gpu.json  # on the GPU machine, in a copy of this tree
    python benchmarks/on_gpu.py --record on_gpu.json                  # afterwards: plans for that GPU use the measured rates

The kit runs, in this order: the tests of `tests/gpu`; training steps at 70M, 160M and 410M parameters and context 2,048
against transformers, eager and compiled (`train_step.py`); several small runs on one GPU (`shared_device.py`). The most
valuable parts come first; parts that do not fit into `--seconds` are left out and recorded as such. The result file is
updated continually, so a killed run keeps its results.

`--device cpu` runs the kit at tiny shapes without a GPU. This file needs only the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

WHEELS = (
    # pytest and its dependencies
    *("pytest", "iniconfig", "packaging", "pluggy", "pygments"),
    # transformers and its dependencies; tokenizers and safetensors because it requires recent versions
    *("transformers", "tokenizers", "safetensors", "huggingface-hub", "hf-xet", "regex", "pyyaml", "tqdm", "filelock"),
    *("fsspec", "click", "httpx2", "httpcore2", "h11", "anyio", "idna", "truststore", "typing-extensions"),
    *("typer", "shellingham", "rich", "markdown-it-py", "mdurl", "annotated-doc"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
)
"""Wheels to copy to the machine, with versions and hashes of requirements-dev.lock. It must have NumPy and PyTorch."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_5_x86_64")

_GRACE_S = 15.0
"""Reserved at the end for stopping the running part."""


def collect(folder: Path, *, python: str) -> None:
    """Download the wheels to copy to the machine, for Python `python` on 64-bit Linux."""
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements-dev.lock").read_text("utf-8"))
    locked = {match[1]: entry for entry in entries if (match := re.match(r"([\w.-]+)==", entry))}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(locked[name] for name in WHEELS) + "\n")
        file.flush()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "--python-version", python, "--implementation", "cp", "--abi", f"cp{python}"]
        command[-1] = command[-1].replace(".", "")
        command += ["--abi", "abi3", "--abi", "none"]
        for name in PLATFORMS:
            command += ["--platform", name]
        subprocess.run([*command, "--dest", str(folder), "--requirement", file.name], check=True)
    wheels = list(folder.glob("*.whl"))
    print(f"{len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 1e6:.0f} MB, in {folder}")


def record_rates(path: Path) -> None:
    """Add the rates of a result file to the table for plans' cost estimates."""
    sys.path.insert(0, str(ROOT))
    from recording import record

    from midstudy.plan.device import CPU_CORE, DEVICES, Rate

    try:
        result = json.loads(path.read_text("utf-8"))
        machine, rows = result["machine"]["device_name"], [row["rate"] for row in result["steps"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"--record: {path} is not a result file of this kit ({type(error).__name__}: {error}).")
    known = [name for name in DEVICES if name != CPU_CORE.name]
    name = next((name for name in known if re.search(rf"\b{name}\b", machine, re.IGNORECASE)), None)
    if name is None:
        sys.exit(f"--record: {path}: expected a device with a price, one of {', '.join(known)}, got {machine}.")
    rates = [Rate(**(row | {"device": name})) for row in rows]
    if not rates:
        sys.exit(f"--record: {path} has no training step; see its log.")
    record(rates)
    print(f"{len(rates)} rates of {name} ({machine}) written to midstudy/plan/rates.json")


@dataclass(frozen=True)
class Part:
    """One command of the kit.

    `most_s` limits its run time; it is skipped if fewer than `least_s` seconds are left. `gather` copies its output and
    files into the result, also while it runs.
    """

    name: str
    command: list[str]
    least_s: float
    most_s: float
    gather: Callable[[dict[str, Any], str], None]


class Kit:
    """Runs the parts one after the other; the result file is always up to date."""

    def __init__(self, output: Path, folder: Path, *, device: str, seconds: float) -> None:
        self.output, self.folder, self.device = output, folder, device
        self._ends = time.monotonic() + seconds
        self.result: dict[str, Any] = {
            "command": shlex.join(["benchmarks/on_gpu.py", *sys.argv[1:]]),
            "device": device,
            "machine": {"python": platform.python_version()},
            "parts": [],
            "tests": {},
            "steps": [],
            "shared_device": None,
        }
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests", folder / "site")),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the machine's plugins belong to another pytest version
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONIOENCODING": "utf-8",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.write()

    def use_installed_libraries(self) -> None:
        """Stop using the copied wheels."""
        self.environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests"))

    @property
    def left_s(self) -> float:
        return self._ends - time.monotonic() - _GRACE_S

    def write(self) -> None:
        new = self.output.with_name(f".{self.output.name}.new")
        new.write_text(json.dumps(self.result, indent=1) + "\n", "utf-8")
        new.replace(self.output)

    def run(self, part: Part) -> bool:
        """Run a part; return whether it succeeded."""
        row: dict[str, Any] = {"part": part.name, "command": shlex.join(part.command), "state": "running"}
        self.result["parts"].append(row)
        if self.left_s < part.least_s:
            row["state"] = f"left out: {max(0.0, self.left_s):.0f} s are left, it needs {part.least_s:.0f} s"
            self._print(row)
            return False
        log = self.folder / f"{len(self.result['parts'])}.log"
        started = time.monotonic()
        limit_s = min(part.most_s, self.left_s)
        with log.open("wb") as file:
            process = subprocess.Popen(
                part.command, cwd=ROOT, env=self.environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                while process.poll() is None and time.monotonic() - started < limit_s:
                    time.sleep(0.2)
                    self._gather(part, row, log, started)
                code = process.poll()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # including its children
                process.wait()
        row["state"] = f"stopped after {limit_s:.0f} s" if code is None else "done" if code == 0 else f"exit status {code}"
        self._gather(part, row, log, started)
        if code != 0:
            row["last_lines"] = log.read_text("utf-8", "replace").splitlines()[-60:]
            self.write()
        self._print(row)
        return code == 0

    def _gather(self, part: Part, row: dict[str, Any], log: Path, started: float) -> None:
        row["took_s"] = round(time.monotonic() - started, 1)
        part.gather(self.result, log.read_text("utf-8", "replace"))
        self.write()

    def _print(self, row: dict[str, Any]) -> None:
        print(f"{row['part']}: {row['state']}" + (f", {row['took_s']} s" if "took_s" in row else ""), flush=True)
        for line in row.get("last_lines", ())[-15:]:
            print(f"    {line}", flush=True)
        self.write()


_MACHINE = """
import json, os, sys, torch, numpy, safetensors, tokenizers
device = sys.argv[1]
if device == "cuda" and not torch.cuda.is_available():
    sys.exit("PyTorch sees no CUDA device here")
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "numpy": numpy.__version__, "cores": os.cpu_count(),
         "safetensors": safetensors.__version__, "tokenizers": tokenizers.__version__, "device_name": "CPU"}
if device == "cuda":
    one = torch.cuda.get_device_properties(0)
    found |= {"device_name": one.name, "memory_bytes": one.total_memory, "num_devices": torch.cuda.device_count(),
              "capability": list(torch.cuda.get_device_capability(0)), "cudnn": torch.backends.cudnn.version(),
              "nccl": list(torch.cuda.nccl.version())}
print(json.dumps(found))
"""


_LIBRARIES = """
import json, pytest, transformers
from transformers import GPTNeoXForCausalLM
print(json.dumps({"pytest": pytest.__version__, "transformers": transformers.__version__}))
"""


def _nothing(result: dict[str, Any], log: str) -> None:
    pass


def _machine(result: dict[str, Any], log: str) -> None:
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            result["machine"] |= json.loads(line)


_OUTCOME = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)


def _tests(result: dict[str, Any], log: str) -> None:
    for name, outcome in _OUTCOME.findall(log):
        if result["tests"].get(name) not in ("failed", "error"):  # a passed test may still fail in teardown
            result["tests"][name] = outcome.lower()


def _lines_of(path: Path) -> list[Any]:
    """Return the complete lines of a JSON Lines file, whose last line may be incomplete."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]


def parts_of(folder: Path, *, device: str, peer: str) -> list[Part]:
    """Return the parts after installation, most valuable first; `folder` must be writable."""
    python, steps, shared = sys.executable, folder / "steps.jsonl", folder / "shared.json"

    def gather_steps(result: dict[str, Any], log: str) -> None:
        result["steps"] = _lines_of(steps)

    def gather_shared(result: dict[str, Any], log: str) -> None:
        result["shared_device"] = next(iter(_lines_of(shared)), None)

    def step(workload: str, precision: str, *, compiled: bool, most_s: float) -> Part:
        rounds = (
            ["--rounds", "5", "--steps", "4"] if device == "cuda" else ["--threads", "1", "--rounds", "2", "--steps", "2"]
        )
        command = [python, "benchmarks/train_step.py", "--device", device, "--workload", workload, "--precision", precision]
        command += [*rounds, "--peer", peer, "--json", str(steps), *(["--compile"] if compiled else [])]
        name = f"step {workload} {precision}{' compiled' if compiled else ''}"
        return Part(name, command, 20.0, most_s, gather_steps)

    tests = [python, "-m", "pytest", "-v", "--confcutdir", "tests/gpu", "-p", "no:cacheprovider", "--tb", "short"]
    tests += ["-m", "gpu" if device == "cuda" else "not gpu", "-W", "ignore::pytest.PytestConfigWarning", "tests/gpu"]
    share = [python, "benchmarks/shared_device.py", "--device", device, "--json", str(shared)]
    if device == "cpu":
        return [
            Part("tests", tests, 20.0, 600.0, _tests),
            *(step("trial", precision, compiled=False, most_s=120.0) for precision in ("fp32", "bf16_mixed", "bf16_true")),
            step("trial", "bf16_true", compiled=True, most_s=300.0),
            Part("shared device", [*share, "--runs", "2", "--rounds", "2", "--steps", "1"], 20.0, 120.0, gather_shared),
        ]
    sizes = ("70m", "160m", "410m")
    return [
        Part("tests", tests, 20.0, 180.0, _tests),
        *(step(size, "bf16_true", compiled=False, most_s=60.0) for size in sizes),
        *(step(size, "bf16_true", compiled=True, most_s=120.0) for size in sizes),
        *(step(size, "bf16_mixed", compiled=False, most_s=60.0) for size in sizes),
        Part("shared device", [*share, "--runs", "4", "--rounds", "5", "--steps", "8"], 30.0, 60.0, gather_shared),
        *(step(size, "bf16_mixed", compiled=True, most_s=120.0) for size in sizes),
        *(step(size, "fp32", compiled=False, most_s=60.0) for size in sizes),
        *(step(size, "fp32", compiled=True, most_s=120.0) for size in sizes),
    ]


def measure(wheels: Path, output: Path, *, device: str, seconds: float) -> bool:
    """Run the kit; return whether every part succeeded."""
    files = sorted(str(wheel.resolve()) for wheel in wheels.glob("*.whl"))
    if not files:
        sys.exit(f"--wheels: no wheel in {wheels}. Download them with --collect {wheels} on a machine with an index.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="midstudy-on-gpu-") as name:
        folder = Path(name)
        kit = Kit(output.resolve(), folder, device=device, seconds=seconds)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        install += ["--disable-pip-version-check", "--no-warn-conflicts", "--target", str(folder / "site"), *files]
        first = (
            Part("wheels", install, 5.0, 120.0, _nothing),
            Part("machine", [sys.executable, "-c", _MACHINE, device], 5.0, 120.0, _machine),
        )
        if not all(kit.run(part) for part in first):
            return False
        libraries = Part("libraries", [sys.executable, "-c", _LIBRARIES], 5.0, 120.0, _machine)
        succeeded, peer = True, "transformers"
        if not kit.run(libraries):  # the machine's other packages may be incompatible with the wheels
            kit.use_installed_libraries()
            succeeded = kit.run(replace(libraries, name="the machine's own libraries"))
            peer = "transformers" if succeeded else "none"
        for part in parts_of(folder, device=device, peer=peer):
            succeeded = kit.run(part) and succeeded
    tests, num_steps = kit.result["tests"], len(kit.result["steps"])
    num_passed = sum(outcome == "passed" for outcome in tests.values())
    print(f"{num_passed} of {len(tests)} tests passed, {num_steps} steps were measured: {output}")
    return succeeded


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--collect", type=Path, metavar="FOLDER", help="download the wheels into FOLDER")
    what.add_argument("--wheels", type=Path, metavar="FOLDER", help="run the kit with the wheels in FOLDER")
    what.add_argument("--record", type=Path, metavar="FILE", help="add the rates of a result to the table for plans")
    parser.add_argument("--python", default="3.12", help="Python version of the GPU machine, for --collect (default: 3.12)")
    parser.add_argument("--output", type=Path, default=Path("on_gpu.json"), help="default: on_gpu.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny shapes, to try the kit")
    parser.add_argument("--seconds", type=float, default=590.0, help="time limit of the whole kit (default: 590)")
    options = parser.parse_args()
    if options.collect:
        collect(options.collect, python=options.python)
    elif options.record:
        record_rates(options.record)
    elif not measure(options.wheels, options.output, device=options.device, seconds=options.seconds):
        sys.exit(1)


if __name__ == "__main__":
    main()
