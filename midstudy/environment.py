"""The environment variables of this process and of every process it starts.

Only this module sets them. Empty values count as not set, loopback bypasses proxies, a user without a home directory gets
one, and children use UTF-8 and import the same code as their parent.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import pwd
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import midstudy

WITHOUT_HOME = "MIDSTUDY_WITHOUT_HOME"
"""Set if HOME is a temporary replacement, where nothing permanent may be stored."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_EMPTY_IS_NOT_SET = ("HF_", "HUGGING_FACE_", "MIDSTUDY_", "MLFLOW_", "PREFECT_", "PYTHON", "XDG_")
_FOLDERS = (
    *("MIDSTUDY_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "TORCH_HOME"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR", "TEMP", "TMP"),
)
"""Values may be relative to the current folder, which can differ in a child."""

_OF_AN_INTERPRETER = (
    *("PYTHONINSPECT", "PYTHONIOENCODING", "PYTHONOPTIMIZE", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONCOERCECLOCALE"),
    *("PYTHONDEBUG", "PYTHONVERBOSE", "PYTHONPROFILEIMPORTTIME"),
)
_OF_A_START = ("PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONWARNINGS")
_OF_AFFINITY = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND", "OMP_THREAD_LIMIT")
"""These would bind every job to the same cores."""

_OF_RANKS = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
_OF_SLURM = ("OMPI_", "PMIX_", "PMI_", "SBATCH_", "SLURM", "SRUN_", "SUBMITIT_", "TORCHELASTIC_")
_OF_VIEWS = ("MLFLOW_", "PREFECT_")
_MPL = ("MATPLOTLIBRC", "MPLBACKEND")

_given_no_proxy: dict[str, str] | None = None
"""The values that `bypass_odd_proxies` replaced."""


# -- every process ----------------------------------------------------------------------------------------------------


def tidied(given: Mapping[str, str], *, spare_home: Path | None = None) -> dict[str, str]:
    """Return the environment `given` without unusable values; idempotent.

    Args:
        spare_home: HOME for a user without a writable one.
    """
    kept = {name: value for name, value in given.items() if value or not name.startswith(_EMPTY_IS_NOT_SET)}
    for name in (*_MPL, "JUPYTER_PATH", "JUPYTER_CONFIG_PATH"):  # user settings must not change how a report looks
        kept.pop(name, None)
    for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH"):
        if name in kept:
            kept[name] = os.pathsep.join(_absolute(path) for path in kept[name].split(os.pathsep) if path)
    if not kept.get("HOME") and (home := _home_by_account()):
        kept["HOME"] = home
    if spare_home is not None and (WITHOUT_HOME in kept or not _is_home(kept.get("HOME", ""))):
        kept = _with_home(kept, spare_home)
    for name in _FOLDERS:
        if name in kept:
            folder = _absolute(_expanded(kept[name], home="" if WITHOUT_HOME in kept else kept.get("HOME", "")))
            kept[name] = folder
            if folder.startswith("~"):  # the home of an unknown user
                del kept[name]
    return _loopback_without_proxy(kept)


def take_over() -> None:
    """Tidy this process's environment; call at the start of the `midstudy` command, before heavy imports.

    Re-execute the command if Python was started with settings that cannot be changed later: a file system encoding other
    than UTF-8, no asserts, warnings as errors. Also raise the limit on open files as far as allowed.
    """
    _open_standard_descriptors()
    given = dict(os.environb)  # bytes, since decoded values may not encode back to the same bytes
    wanted = {name: value for name, value in given.items() if name.decode("latin-1") not in _OF_A_START}
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        wanted[b"PYTHONUTF8"] = b"1"
        if sys.stdout is not None:  # keep the terminal's encoding
            wanted[b"PYTHONIOENCODING"] = sys.stdout.encoding.encode("ascii")
    if wanted != given:
        command = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
        interpreter = command[0] if os.path.isabs(command[0]) else os.fsencode(sys.executable)
        os.execve(interpreter, [interpreter, *command[1:]], wanted)
    tidy = tidied(os.environ)
    if not _is_home(tidy.get("HOME", "")):
        home = tempfile.mkdtemp(prefix="midstudy-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        tidy = tidied(tidy, spare_home=Path(home))
    for name in os.environ.keys() - tidy.keys():
        del os.environ[name]
    os.environ.update(tidy)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536) if hard > 0 else 65_536, hard))


def require_current_folder(store: str) -> None:
    """Make sure the current folder exists, because libraries ask for it; if it was removed, change to the root.

    Raises:
        ValueError: `store` is relative to a removed folder.
    """
    try:
        os.getcwd()
    except OSError:
        if not os.path.isabs(store):
            raise ValueError(
                f"--store: expected an absolute path, since the current folder was removed, got {store!r}. "
                "Or change to an existing folder."
            ) from None
        os.chdir("/")


def bypass_odd_proxies() -> None:
    """Bypass all proxies in this process if some library it uses cannot parse a configured proxy.

    Children still get the proxies as configured.
    """
    global _given_no_proxy
    names = ("http_proxy", "https_proxy", "all_proxy")  # in any mixture of cases
    used = [value for name, value in os.environ.items() if value and name.lower() in names]
    if _given_no_proxy is None and not all(_is_plain_proxy(value) for value in used):
        _given_no_proxy = {name: os.environ[name] for name in ("no_proxy", "NO_PROXY") if name in os.environ}
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"


def num_cores() -> int:
    """Return the number of cores that this process may use, which CPU affinity can limit."""
    return len(os.sched_getaffinity(0))


def existing_folder() -> str:
    """Return the current folder, for a child with relative arguments; the root folder if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


# -- child processes --------------------------------------------------------------------------------------------------


def of_child(*, without: Collection[str] = (), spare_home: Path | None = None, **settings: str) -> dict[str, str]:
    """Return the environment of a Python child process.

    Args:
        without: prefixes of variables to drop.
        spare_home: HOME for a user without a writable one.
        settings: variables to set; they override inherited ones.
    """
    given = dict(os.environ)
    if _given_no_proxy is not None:
        for name in ("no_proxy", "NO_PROXY"):
            given.pop(name, None)
        given |= _given_no_proxy
    kept = {
        name: value
        for name, value in tidied(given, spare_home=spare_home).items()
        if name not in _OF_AN_INTERPRETER and not name.startswith(tuple(without))
    }
    return kept | interpreter(kept) | settings


def interpreter(given: Mapping[str, str]) -> dict[str, str]:
    """Return variables for a child's Python: UTF-8, and imports of this code, never from the child's current folder."""
    return {
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": _own_path(given),
    }


def of_job(folder: Path, *, num_threads: int, **settings: str) -> dict[str, str]:
    """Return the environment of a local job: thread counts, and no variables of Prefect, MLflow or an enclosing Slurm job.

    Args:
        folder: the job's folder, HOME for a user without a writable one.
    """
    kept = of_child(without=(*_OF_VIEWS, *_OF_SLURM), spare_home=folder)
    for name in (*_OF_AFFINITY, *_OF_RANKS):
        kept.pop(name, None)
    return kept | dict.fromkeys(THREADS, str(num_threads)) | settings


def of_slurm_job(*, num_threads: int, **settings: str) -> list[str]:
    """Return `of_job` as lines of a batch script, since Slurm takes a job's environment from the submitter and the node."""
    names = " ".join((*_OF_AN_INTERPRETER, *_OF_AFFINITY, *_OF_RANKS, *_MPL))
    prefixes = " ".join(f"${{!{prefix}@}}" for prefix in _OF_VIEWS)
    variables = dict.fromkeys(THREADS, str(num_threads)) | settings
    own = {name: value for name, value in interpreter({}).items() if name != "PYTHONPATH"}
    return [
        f"unset {names} {prefixes}",
        *(f"export {name}={value}" for name, value in (own | variables).items()),
        *([f'export PYTHONPATH="{_root()}${{PYTHONPATH:+:$PYTHONPATH}}"'] if _root_is_checkout() else []),
    ]


def of_slurm_command() -> dict[str, str]:
    """Return the environment of Slurm commands.

    It has no user output formats, which would break parsing, and no resources of an enclosing job, which would change the
    request.
    """
    kept = of_child()
    prefixes = ("SLURM_", "SLURMD_", "SQUEUE_", "SACCT_", "SBATCH_", "SRUN_", "SUBMITIT_")
    passed_on = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    return {name: value for name, value in kept.items() if name in passed_on or not name.startswith(prefixes)}


def of_kernel(folder: Path) -> dict[str, str]:
    """Return the environment of the report's kernel.

    IPython, Jupyter and Matplotlib read their settings from `folder`, which belongs to the kernel. The user's font cache is
    used if it exists.
    """
    (folder / "matplotlibrc").touch()
    kept = of_child(without=(*_OF_VIEWS, "IPYTHON", "JUPYTER_"), spare_home=folder)
    jupyter = {f"JUPYTER_{name}_DIR": str(folder) for name in ("CONFIG", "DATA", "RUNTIME")}
    own = {"IPYTHONDIR": str(folder), "MATPLOTLIBRC": str(folder / "matplotlibrc"), **jupyter}
    if "MPLCONFIGDIR" in kept and not _can_be_made(kept["MPLCONFIGDIR"]):
        own["MPLCONFIGDIR"] = str(folder)
    return kept | own | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def of_git() -> dict[str, str]:
    """Return the environment of `git -C FOLDER`, without variables that point git to another repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}


# -- parts ------------------------------------------------------------------------------------------------------------


def _root() -> str:
    return str(Path(midstudy.__file__).parent.parent)


def _root_is_checkout() -> bool:
    """Return False if installed: site-packages is on the path already and must not come before the standard library."""
    return Path(_root()).name not in ("site-packages", "dist-packages")


def _own_path(given: Mapping[str, str]) -> str:
    others = [_absolute(path) for path in given.get("PYTHONPATH", "").split(os.pathsep) if path]
    first = [_root()] if _root_is_checkout() else []
    return os.pathsep.join(dict.fromkeys([*first, *others]))


def _with_home(given: Mapping[str, str], home: Path) -> dict[str, str]:
    """Replace a missing or unwritable HOME, but keep using the readable caches and profiles in it."""
    previous = given.get("HOME", "")
    replaced = dict(given)
    for name, where in (
        ("HF_HOME", ".cache/huggingface"),
        ("MIDSTUDY_CACHE", ".cache/midstudy"),
        ("PREFECT_PROFILES_PATH", ".prefect/profiles.toml"),
    ):
        if WITHOUT_HOME not in given and os.path.isabs(previous) and os.access(f"{previous}/{where}", os.R_OK):
            replaced.setdefault(name, f"{previous}/{where}")
    for name in ("USER", "LOGNAME"):  # libraries ask for the user name, which the system may not know
        if not replaced.get(name):
            replaced[name] = f"uid{os.getuid()}"
    return replaced | {"HOME": str(home), WITHOUT_HOME: "1"}


def _home_by_account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def _expanded(path: str, *, home: str) -> str:
    """Expand a leading `~` (to `home`) or `~user`; return the path unchanged if that home is unknown."""
    own = path == "~" or path.startswith("~/")
    return (home + path[1:] if home else path) if own else os.path.expanduser(path)


def _is_home(folder: str) -> bool:
    return os.path.isabs(folder) and _is_writable(folder)


def _is_writable(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _can_be_made(folder: str) -> bool:
    """Return whether a folder is writable or could be created."""
    while not os.path.lexists(folder) and folder not in ("", "/"):
        folder = os.path.dirname(folder)
    return _is_writable(folder or ".")


def _absolute(path: str) -> str:
    if os.path.isabs(path) or path.startswith("~"):
        return path
    try:
        return os.path.abspath(path)
    except OSError:  # the current folder was removed
        return path


def _loopback_without_proxy(given: Mapping[str, str]) -> dict[str, str]:
    """Add loopback to no_proxy, and write its hosts in the one form that all libraries parse."""
    kept = {name: value.strip() if name.lower().endswith("_proxy") else value for name, value in given.items()}
    listed = kept.pop("NO_PROXY", "")
    listed = kept.pop("no_proxy", "") or listed  # lower case wins, as in the libraries
    hosts = [host for entry in listed.split(",") if (host := _host(entry))]
    if not hosts and not any(kept.get(name) for name in kept if name.lower().endswith("_proxy")):
        return kept
    hosts = ["*"] if "*" in hosts else list(dict.fromkeys([*hosts, *LOOPBACK]))
    return kept | dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(hosts))


def _host(entry: str) -> str:
    """Return a no_proxy entry normalised for the libraries; an empty string if they would fail on it."""
    host = entry.strip().rpartition("://")[2]
    if bracketed := re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](:\d*)?", host):
        host = bracketed[1]
    if host.count(":") > 1:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            return ""
    return host if re.fullmatch(r"\*|(\*?\.)?[\w-][\w.-]*(:\d+|/\d+)?", host, re.ASCII) else ""


def _is_plain_proxy(value: str) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        return value.isprintable() and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _open_standard_descriptors() -> None:
    """Open the null device for closed standard descriptors; otherwise the next opened file would take their number."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, mode)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            os.set_inheritable(number, True)
