"""How midstudy uses environment variables: every kind of variable set, empty and malformed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders.places import REPOSITORY
from builders.synthetic_study import frozen, synthetic_study

from midstudy import environment
from midstudy.data.cache import cache_dir
from midstudy.environment import WITHOUT_HOME, of_child, of_git, of_job, of_kernel, of_slurm_command, of_slurm_job, tidied
from midstudy.store.store import Store

SAME, UNSET = object(), None


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(environment, "_given_no_proxy", None)


# -- every process ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *((name, "", UNSET) for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "HF_HOME", "HF_ENDPOINT")),
        *((name, "", UNSET) for name in ("MIDSTUDY_STORE", "XDG_CACHE_HOME", "PYTHONPATH", "PREFECT_PROFILE")),
        ("MLFLOW_TRACKING_URI", "http://server:5000", SAME),
        ("PREFECT_API_URL", "http://server:4200/api", SAME),
        ("CUDA_VISIBLE_DEVICES", "", SAME),  # empty means no GPU
        ("CUDA_VISIBLE_DEVICES", "0,1", SAME),
        ("TMPDIR", "relative", os.path.abspath("relative")),
        ("MIDSTUDY_CACHE", "relative", os.path.abspath("relative")),
        ("MIDSTUDY_CACHE", "~/cache", "/tmp/cache"),
        *((name, "~no-such-user/cache", UNSET) for name in ("MIDSTUDY_CACHE", "HF_HOME")),
        ("https_proxy", " http://proxy:3128\r", "http://proxy:3128"),
        ("PYTHONPATH", ":lib:/tmp:", f"{os.path.abspath('lib')}:/tmp"),
        ("PATH", "/usr/bin:bin", f"/usr/bin:{os.path.abspath('bin')}"),
        *((name, "nonsense", UNSET) for name in ("MPLBACKEND", "MATPLOTLIBRC", "JUPYTER_PATH")),
        ("LANG", "nowhere.ODD-1", SAME),
        ("TZ", "No/Where", SAME),
        ("ANYTHING_ELSE", "", SAME),
    ],
)  # fmt: skip
def test_empty_values_count_as_not_set_and_paths_are_absolute(name: str, value: str, expected: object) -> None:
    tidy = tidied({"HOME": "/tmp", name: value})
    assert tidy.get(name) == (value if expected is SAME else expected)
    assert tidied(tidy) == tidy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"no_proxy": ""}, None),
        ({"http_proxy": "http://proxy:1"}, "localhost,127.0.0.1,::1"),
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": "localhost,::1,[::1]"}, "localhost,::1,127.0.0.1"),
        ({"NO_PROXY": "[::1]:80, .corp , *.corp.example,10.0.0.0/8,host:8080"},
         "::1,.corp,*.corp.example,10.0.0.0/8,host:8080,localhost,127.0.0.1"),
        ({"no_proxy": "a b,[x],http://[bad,fe80::1%eth0,::1/128,a..,\u00fc", "NO_PROXY": "other"},
         "fe80::1%eth0,a..,localhost,127.0.0.1,::1"),
        ({"no_proxy": "https://corp"}, "corp,localhost,127.0.0.1,::1"),
        ({"no_proxy": "a,*"}, "*"),
    ],
)  # fmt: skip
def test_loopback_bypasses_proxies_and_every_library_can_parse_no_proxy(given: dict[str, str], expected: str | None) -> None:
    import httpx

    tidy = tidied({"HOME": "/tmp", **given})
    assert tidy.get("no_proxy") == tidy.get("NO_PROXY") == expected
    if expected is not None:
        for host in expected.split(","):
            if host != "*" and "%" not in host:
                httpx.URL(f"all://[{host}]" if host.count(":") > 1 else f"all://*{host.removeprefix('*')}")


@pytest.mark.parametrize("name", ["ALL_PROXY", "Http_Proxy"])
@pytest.mark.parametrize(
    "proxy",
    [
        *("socks5://127.0.0.1:9", "socks5h://127.0.0.1:9", "socks4://host:1", ":::garbage", "http://[bad", "ftp://host"),
        *("http://host:port", "direct://", "http://user:p#x@host:1", "http://ho\nst:1"),
    ],
)
def test_a_proxy_that_a_library_cannot_parse_is_bypassed_here_but_passed_to_children(
    name: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("no_proxy", "corp")
    monkeypatch.setenv("NO_PROXY", "corp")
    environment.bypass_odd_proxies()
    httpx.Client().close()  # reads the proxy variables
    child = of_child()
    assert (child[name], child["no_proxy"]) == (proxy, "corp,localhost,127.0.0.1,::1")


def test_a_plain_proxy_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.corp:3128")
    monkeypatch.setenv("http_proxy", "proxy.corp")
    environment.bypass_odd_proxies()
    assert "no_proxy" not in os.environ


@pytest.mark.parametrize("home", ["", "relative", "/nowhere", __file__])
def test_a_user_without_a_home_gets_a_temporary_one_without_caches(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_home_by_account", lambda: "")
    tidy = tidied({"HOME": home}, spare_home=tmp_path)
    assert (tidy["HOME"], tidy[WITHOUT_HOME]) == (str(tmp_path), "1")
    assert tidy["USER"] == tidy["LOGNAME"] == f"uid{os.getuid()}"
    assert "MIDSTUDY_CACHE" not in tidied({"HOME": home, "MIDSTUDY_CACHE": "~/cache"}, spare_home=tmp_path)
    for name in ("HOME", WITHOUT_HOME):
        monkeypatch.setenv(name, tidy[name])
    for name in ("MIDSTUDY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="HOME is not a writable folder"):
        cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/midstudy")
    monkeypatch.setenv("MIDSTUDY_CACHE", "/else")
    assert cache_dir() == Path("/else")


def test_readable_caches_in_an_unwritable_home_are_still_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / ".cache/huggingface").mkdir(parents=True)
    monkeypatch.setattr(environment, "_is_writable", lambda folder: folder != str(home))
    tidy = tidied({"HOME": str(home)}, spare_home=tmp_path)
    assert (tidy["HOME"], tidy["HF_HOME"]) == (str(tmp_path), f"{home}/.cache/huggingface")
    assert "MIDSTUDY_CACHE" not in tidy
    assert tidied({"HOME": "/tmp"}, spare_home=tmp_path)["HOME"] == "/tmp"


# -- child processes --------------------------------------------------------------------------------------------------

OF_OTHERS = {
    "PYTHONIOENCODING": "latin-1",
    "PYTHONUTF8": "0",
    "PYTHONSTARTUP": "/nowhere.py",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "PYTHONINSPECT": "1",
    "PREFECT_API_KEY": "secret",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "SLURM_JOB_ID": "7",
    "SLURM_RESTART_COUNT": "x",
    "SUBMITIT_EXECUTOR": "slurm",
    "RANK": "3",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "elsewhere",
    "GOMP_CPU_AFFINITY": "0",
    "OMP_PROC_BIND": "true",
    "OMP_NUM_THREADS": "abc",
    "MPLBACKEND": "nonsense",
    "JUPYTER_CONFIG_DIR": "/nowhere",
    "IPYTHONDIR": "/nowhere",
}


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OF_OTHERS.items():
        monkeypatch.setenv(name, value)


PYTHONS = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:backslashreplace", "PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize(
    ("process", "gets", "does_not_get"),
    [
        ("child", {"PREFECT_API_KEY", "MLFLOW_TRACKING_PASSWORD", "SLURM_JOB_ID"}, {"MPLBACKEND"}),
        ("job", {"OMP_NUM_THREADS"}, {"PREFECT_API_KEY", "MLFLOW_TRACKING_PASSWORD", "SLURM_JOB_ID", "SLURM_RESTART_COUNT",
                                     "SUBMITIT_EXECUTOR", "RANK", "WORLD_SIZE", "MASTER_ADDR", "GOMP_CPU_AFFINITY",
                                     "OMP_PROC_BIND", "MPLBACKEND"}),
        ("kernel", {"IPYTHONDIR", "JUPYTER_CONFIG_DIR", "MATPLOTLIBRC"}, {"PREFECT_API_KEY", "MPLBACKEND"}),
        ("slurm", {"PREFECT_API_KEY"}, {"SLURM_JOB_ID", "SUBMITIT_EXECUTOR"}),
    ],
)  # fmt: skip
def test_variables_of_each_kind_of_process(
    process: str, gets: set[str], does_not_get: set[str], odd: None, tmp_path: Path
) -> None:
    variables = {
        "child": of_child,
        "job": lambda: of_job(tmp_path, num_threads=3, MORE="1"),
        "kernel": lambda: of_kernel(tmp_path),
        "slurm": of_slurm_command,
    }[process]()
    assert gets <= variables.keys()
    assert does_not_get.isdisjoint(variables)
    assert {name: variables[name] for name in PYTHONS} == PYTHONS
    assert {"PYTHONSTARTUP", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONINSPECT"}.isdisjoint(variables)
    assert variables["PYTHONPATH"].split(":")[0] == str(REPOSITORY)
    if process == "job":
        assert (variables["OMP_NUM_THREADS"], variables["RAYON_NUM_THREADS"], variables["MORE"]) == ("3", "3", "1")
    if process == "kernel":
        folders = {variables[name] for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
        assert folders == {str(tmp_path)}


def test_a_slurm_jobs_variables_do_not_depend_on_its_node(odd: None) -> None:
    script = "\n".join([*of_slurm_job(num_threads=3, MALLOC="4"), "env -0"])
    done = subprocess.run(["bash", "-c", script], env={**os.environ, "PYTHONPATH": "/lib"}, capture_output=True, check=True)
    variables = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if "=" in entry)
    assert {name: variables[name] for name in PYTHONS} == PYTHONS
    assert (variables["OMP_NUM_THREADS"], variables["MALLOC"], variables["PYTHONPATH"]) == ("3", "4", f"{REPOSITORY}:/lib")
    assert variables["SLURM_JOB_ID"] == "7"
    assert {"PREFECT_API_KEY", "MLFLOW_TRACKING_PASSWORD", "RANK", "PYTHONOPTIMIZE", "OMP_PROC_BIND"}.isdisjoint(variables)


def test_a_file_in_the_current_folder_is_not_imported_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit(7)")
    command = [sys.executable, "-m", "midstudy.track", "--help"]
    assert subprocess.run(command, env=of_child(), cwd=tmp_path, capture_output=True).returncode == 0


def test_git_variables_do_not_redirect_git_to_another_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert not [name for name in of_git() if name.startswith("GIT_")]


def test_every_subprocess_is_started_with_an_explicit_environment() -> None:
    starts = [
        (path.name, call)
        for folder in ("midstudy", "flows")
        for path in (REPOSITORY / folder).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("subprocess.Popen", "subprocess.run")
    ]
    assert len(starts) >= 10
    assert [
        (name, ast.unparse(call)) for name, call in starts if "env" not in {keyword.arg for keyword in call.keywords}
    ] == []


# -- the command itself -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.open(tmp_path_factory.mktemp("environment") / "store", create=True)
    study = frozen(store, synthetic_study())
    assert any("→" in stage.label for stage in study.stages.values())
    for stage_id, stage in study.stages.items():
        if "→" in stage.label:
            store.report_failure(stage_id, {"cause": "0.8 [0.7, 0.9] × 3 → 4"})
    return store


STATUS = '"$PYTHON" -m midstudy.cli.main status --store "$STORE"'
ODD_LOCALES = [
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "no_WHERE.ISO-8859-1", "LANG": ""},
]


@pytest.mark.parametrize(
    ("settings", "command", "expected"),
    [
        *((settings, STATUS, 0) for settings in ODD_LOCALES),
        ({"PYTHONWARNINGS": "error"}, STATUS, 0),
        ({"PYTHONOPTIMIZE": "2"}, STATUS, 0),
        ({"PYTHONPATH": "nowhere:", "PYTHONSTARTUP": "/nowhere", "PYTHONHASHSEED": "1", "PYTHONINSPECT": "1"}, STATUS, 0),
        ({"HOME": "", "TMPDIR": "/no", "XDG_CACHE_HOME": "relative", "TZ": "No/Where", "OMP_NUM_THREADS": "0"}, STATUS, 0),
        ({}, f"{STATUS} >&-", 0),
        ({}, f"{STATUS} <&- >&- 2>&-", 0),
        ({}, f"set -o pipefail; {STATUS} | head -1", 0),
        ({}, f"{STATUS} >/dev/full", 2),
        ({}, f"ulimit -n 64; {STATUS}", 0),
        ({}, f"umask 077; {STATUS}", 0),
        ({}, f"mkdir gone; cd gone; rmdir ../gone; {STATUS}", 0),
        ({"STORE": "store"}, f"mkdir gone; cd gone; rmdir ../gone; {STATUS}", 2),
        ({"STORE": "\udcff"}, STATUS, 2),
    ],
)  # fmt: skip
def test_the_command_works_in_an_odd_environment(
    settings: dict[str, str], command: str, expected: int, store: Store, tmp_path: Path
) -> None:
    given = {**os.environ, "PYTHON": sys.executable, "STORE": str(store.root), "PYTHONPATH": str(REPOSITORY), **settings}
    if "PYTHONPATH" in settings:
        given["PYTHONPATH"] = f"{REPOSITORY}:{settings['PYTHONPATH']}"
    done = subprocess.run(["bash", "-c", command], env=given, cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL)
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    message = "\n".join(line for line in lines if not line.startswith("bash: warning: setlocale"))
    assert done.returncode == expected, message
    assert "Traceback" not in message
    assert len(message.splitlines()) == (expected == 2) * 1, message
    if expected == 0 and ">&-" not in command:
        assert done.stdout.startswith(b"synthetic: 0 of ")
    if command == STATUS and expected == 0:
        encoding = settings.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
        assert done.stdout.decode(encoding)
        assert b"\xc3\x97 3" in done.stdout or b"\xd7 3" in done.stdout or rb"\xd7 3" in done.stdout


@pytest.mark.parametrize(("language", "letters"), [("en_US", "ISO-8859-1"), ("ja_JP", "EUC-JP"), ("ru_RU", "KOI8-R")])
def test_names_are_read_as_utf8_in_every_locale(language: str, letters: str, store: Store, tmp_path: Path) -> None:
    """In encodings such as EUC-JP, decoding and encoding do not invert each other; the command's own bytes are used."""
    made = ["localedef", "-i", language, "-f", letters, str(tmp_path / f"{language}.{letters}")]
    if shutil.which("localedef") is None or subprocess.run(made, capture_output=True).returncode:
        pytest.skip("needs localedef and its sources (Debian's package locales)")
    named = tmp_path / "d\u00e4ta \u2192 \u6f22"
    named.symlink_to(store.root)
    settings = {"LC_ALL": f"{language}.{letters}", "LOCPATH": str(tmp_path), "ODD": "\u2192\u00fc"}
    given = {**os.environ, **settings, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "midstudy.cli.main", "status", "--store", str(named)]
    done = subprocess.run(command, env=given, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_process_bound_to_one_core_runs_one_job_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from midstudy.run.study import place

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    nothing = dict.fromkeys(("jobs", "micro_batch", "placement_file"))
    alone = dict.fromkeys(("threads", "ranks"), 1)
    where = place(backend="local", device="cpu", compiled=False, **nothing, **alone)  # type: ignore[arg-type]
    assert where.max_jobs == 1
