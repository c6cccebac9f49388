"""prefect.yaml: what it deploys, and that wrong parameters are refused when a run is created, as the server does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from builders.places import REPOSITORY
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import ValidationError, is_valid_schema, validate
from pydantic import TypeAdapter

from midstudy.data.data_args import DataChoice
from midstudy.data.source_argument import SourceArgument
from midstudy.flows.deployed import DataSources, _settings, flow_of
from midstudy.plan.experiment import load_study, study_parameters
from midstudy.recipe.exact_share import exact_share

DEPLOYMENTS = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
EXPERIMENTS = {
    "bridging/micro": "bridging_micro.py",
    "timing-weight/micro": "timing_weight.py",
    "nanochat/micro": "nanochat.py",
    "similarity/data-only": "similarity.py",
}


def _flow(deployment: dict[str, Any]) -> Flow[..., Any]:
    path, function = deployment["entrypoint"].split(":")
    loaded: Flow[..., Any] = load_flow_from_entrypoint(f"{REPOSITORY / path}:{function}")
    return loaded


FLOWS = {f"{flow.name}/{one['name']}": flow for one in DEPLOYMENTS for flow in [_flow(one)]}
GIVEN = {name: one.get("parameters", {}) for name, one in zip(FLOWS, DEPLOYMENTS, strict=True)}


def test_the_sweeps_are_deployed() -> None:
    assert list(FLOWS) == [
        "bridging/micro",
        "bridging/local-data",
        "timing-weight/micro",
        "nanochat/micro",
        "similarity/data-only",
        "report/from-store",
        "track-sync/scheduled",
    ]


@pytest.mark.parametrize("name", FLOWS)
def test_a_deployment_says_what_it_is_and_every_parameter_what_it_means(name: str) -> None:
    deployment = DEPLOYMENTS[list(FLOWS).index(name)]
    assert deployment["description"]
    assert deployment["tags"]
    schema = FLOWS[name].parameters.model_dump()
    is_valid_schema(schema)
    for parameter, one in schema["properties"].items():
        assert one.get("description"), parameter
    assert all(one["description"] for one in schema["definitions"].get("Machine", {}).get("properties", {}).values())
    assert GIVEN[name].keys() <= schema["properties"].keys()


@pytest.mark.parametrize("name", FLOWS)
def test_a_deployment_runs_with_its_own_parameters_or_says_which_it_needs(name: str) -> None:
    schema = FLOWS[name].parameters.model_dump()
    missing = set(schema["required"]) - GIVEN[name].keys()
    assert missing == {"bridging/local-data": {"data"}, "report/from-store": {"study"}}.get(name, set())


@pytest.mark.parametrize("flow", EXPERIMENTS)
def test_defaults_are_those_of_the_experiment(flow: str) -> None:
    """Else the page would show one value and `midstudy run` take another."""
    keywords = study_parameters(REPOSITORY / "experiments" / EXPERIMENTS[flow])
    parameters = FLOWS[flow].parameters.properties
    assert parameters.keys() - {"data", "machine"} == keywords.keys()
    for name, keyword in keywords.items():
        shown = parameters[name].get("default")
        assert (tuple(shown) if isinstance(shown, list) else shown) == keyword.default, name


@pytest.mark.parametrize("path", sorted((REPOSITORY / "experiments").glob("*.py")), ids=lambda path: path.stem)
def test_every_experiment_can_be_deployed_with_its_own_defaults(path: Path) -> None:
    deployed = flow_of(path, name=path.stem.replace("_", "-"))
    schema = deployed.parameters.model_dump_for_openapi()
    is_valid_schema(schema)
    assert schema["properties"].keys() == {"data", "machine", *study_parameters(path)}
    shown = {name: one["default"] for name, one in schema["properties"].items() if "default" in one}
    given = {**shown, "data": ["wheels"]}
    validate(given, schema, raise_on_error=True)
    assert _settings(path, deployed.validate_parameters(given)) == []


def test_a_deployed_nanochat_is_the_study_of_the_command_line() -> None:
    path = REPOSITORY / "experiments" / "nanochat.py"
    given = {"data": ["wheels"], "size": "pico", "trunk_seeds": [0], "base_steps": 10, "shrink": 60, "full": True}
    settings = _settings(path, FLOWS["nanochat/micro"].validate_parameters(given))
    assert settings == ["full=True", "size=pico", "trunk_seeds=(0,)", "base_steps=10", "shrink=60"]
    arms = load_study(path, settings=settings).arms
    assert {arm.factors["trunk_seed"] for arm in arms} == {0}
    assert "rl" in {arm.factors["after"] for arm in arms}


def test_no_study_depends_on_a_slot_that_a_server_may_forget() -> None:
    """prefect 3.8 terminates a run whose deployment has a limit when the lease of its slot cannot be renewed, which is so
    after every restart of a server, since leases are kept in memory."""
    assert [one["name"] for one in DEPLOYMENTS if "concurrency_limit" in one] == ["scheduled"]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("bridging/micro", {"total_steps": "many"}, "'total_steps'. Failure reason: 'many' is not of type 'integer'"),
        ("bridging/micro", {"name": "../x"}, "'name'. Failure reason: '../x' does not match"),
        ("bridging/micro", {"data": []}, "'data'. Failure reason: [] should be non-empty"),
        ("bridging/micro", {"data": [""]}, "'data[0]'. Failure reason: '' does not match"),
        ("bridging/micro", {"data": ["~/text", " "]}, "'data[1]'. Failure reason: ' ' does not match"),
        ("bridging/micro", {"data": ["~/text", "code="]}, "'data[1]'. Failure reason: 'code=' does not match"),
        ("bridging/micro", {"data": ["~/text", "code= "]}, "'data[1]'"),
        ("bridging/micro", {"data": ["=wheels"]}, "'data[0]'"),
        ("bridging/micro", {"machine": {"store": ""}}, "'machine.store'"),
        ("bridging/micro", {"machine": {"placement": " "}}, "'machine.placement'"),
        ("report/from-store", {"study": "mine", "store": ""}, "'store'"),
        ("track-sync/scheduled", {"store": " "}, "'store'"),
        ("track-sync/scheduled", {"tracking_uri": ""}, "'tracking_uri'"),
        ("bridging/micro", {"machine": {"jobs": 0}}, "'machine.jobs'"),
        ("bridging/micro", {"machine": {"gpus": 8}}, "('gpus' was unexpected)"),
        ("bridging/local-data", {}, "'data' is a required property"),
        ("report/from-store", {}, "'study' is a required property"),
        ("timing-weight/micro", {"weights": ["heavy"]}, "'weights[0]'. Failure reason: 'heavy' is not of type 'number'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_when_the_run_is_created(name: str, parameters: dict[str, Any], message: str) -> None:
    """`validate` is what the server calls before it makes a flow run (`POST /deployments/{id}/create_flow_run`)."""
    schema = FLOWS[name].parameters.model_dump_for_openapi()
    with pytest.raises(ValidationError) as refused:
        validate(GIVEN[name] | parameters, schema, raise_on_error=True)
    assert message in str(refused.value)


SOURCES = [
    "wheels", "~/te xt", "~/a,b", "code=wheels", "code=~/a=b", "code=~/a,b", "math=hub:owner/set@0123",
    "code=~/a,text=content", "code=~/a,share=0.7,text=content", "code=~/a,share=1/3", "code=~/a,b=c,share=7e-1",
    "pycode=~/pairs,prompt=question,completion=answer", "pycode=~/pairs,completion=answer,prompt=question,share=0.5",
    "chat=~/talk,messages=turns",
]  # fmt: skip
NO_SOURCES = [
    "~/a,text=content", "code=,text=content", "code=~/a,text=", "code=~/a,text= ,share=0.5", "code=~/a,text=a,text=b",
    "code=~/a,text=a,messages=b", "code=~/a,messages=a,text=b", "code=~/a,messages=a,prompt=b,completion=c",
    "code=~/a,text=a,prompt=b,completion=c", "code=~/a,completion=c,text=a", "code=~/a,prompt=b", "code=~/a,completion=b",
    "code=~/a,share=", "code=~/a,share=most", "code=~/a,share=0.5,share=0.5",
]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES + NO_SOURCES)
def test_a_source_is_accepted_when_the_run_is_created_if_the_command_line_reads_it(source: str) -> None:
    schema = FLOWS["bridging/micro"].parameters.model_dump_for_openapi()
    given = GIVEN["bridging/micro"] | {"data": [source]}
    if source in SOURCES:
        assert command_line_reads(source)
        validate(given, schema, raise_on_error=True)
        TypeAdapter(DataSources).validate_python((source,))
        return
    assert not command_line_reads(source)
    with pytest.raises(ValidationError, match=r"data\[0\]"):
        validate(given, schema, raise_on_error=True)


def command_line_reads(source: str) -> bool:
    """Return whether `--data SOURCE` is well formed; whether the place exists is another question."""
    name, separator, value = source.partition("=")
    try:
        DataChoice([source])
        share = SourceArgument.parse(value, name=name).share if separator else None
        exact_share("share", share or 1)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", ["bridging/micro", "bridging/local-data", "timing-weight/micro", "similarity/data-only"])
def test_the_description_of_data_mentions_fields_and_shares(name: str) -> None:
    described = FLOWS[name].parameters.model_dump()["properties"]["data"]["description"]
    for form in ("text=FIELD", "prompt=FIELD,completion=FIELD", "share=0.7", "hub:OWNER/SET[:CONFIG]@COMMIT"):
        assert form in described


def test_only_what_differs_from_the_experiment_is_handed_on() -> None:
    path = REPOSITORY / "experiments" / "bridging_micro.py"
    defaults = {name: one.default for name, one in study_parameters(path).items()}
    machine = object()
    assert _settings(path, {**defaults, "data": ("wheels",), "machine": machine}) == []
    changed = {**defaults, "sizes": ("70m", "160m"), "precision": "bf16_true", "full": True}
    assert _settings(path, changed) == ["sizes=('70m', '160m')", "precision=bf16_true", "full=True"]


def test_a_parameter_means_what_the_docstring_of_the_experiment_says(tmp_path: Path) -> None:
    path = tmp_path / "question.py"
    path.write_text(
        "def study(*, data, size: str = 'nano', steps: int = 3, loud: bool = False):\n"
        '    """Return the study.\n\n    Args:\n        size, steps: of the trunk,\n            which all share.\n    """\n'
    )
    shown = flow_of(path, name="question").parameters.model_dump()["properties"]
    assert shown["size"]["description"] == shown["steps"]["description"] == "Of the trunk, which all share."
    assert shown["loud"]["description"] == "`loud` of study(...) in question.py."


def test_a_file_of_ones_own_is_a_flow_with_its_keywords(tmp_path: Path) -> None:
    path = tmp_path / "question.py"
    path.write_text("def study(*, data, name: str = 'mine', starts: tuple[int, ...] = (3,), loud: bool = False): ...\n")
    schema = flow_of(path, name="question").parameters.model_dump()
    assert schema["required"] == ["data"]
    shown = {
        name: (one["type"], one["default"]) for name, one in schema["properties"].items() if name not in ("data", "machine")
    }
    assert shown == {"name": ("string", "mine"), "starts": ("array", [3]), "loud": ("boolean", False)}
