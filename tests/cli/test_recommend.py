"""`midstudy recommend`: what it prints, draws and rejects, and the study that it proposes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from builders.languages import language_documents, write_documents
from builders.places import REPOSITORY

from midstudy.cli.main import main

CORPUS = language_documents(2, number=500, seed=2)
ITEM = language_documents(2, number=1, seed=12)[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))
    rows = {"train": (200, 10), "dev": (100, 11), "test": (1, 12)}
    for split, (number, seed) in rows.items():
        documents = language_documents(2, number=number, seed=seed)
        path = tmp_path / "sft" / "task" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        items = [{"inputs": one[:100], "targets": one[100:]} for one in documents]
        path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    write_documents(tmp_path / "general" / "train.jsonl", language_documents(1, number=600, seed=1))
    write_documents(tmp_path / "left" / "train.jsonl", CORPUS[::2])
    write_documents(tmp_path / "right" / "train.jsonl", CORPUS[1::2])
    write_documents(tmp_path / "dirty.jsonl", [*CORPUS[:7], ITEM])
    return tmp_path


def command(folder: Path, *candidates: str, share: str = "0.2") -> list[str]:
    place = ["recommend", "--target", f"task={folder}", "--general", f"general={folder}", "--store", str(folder / "store")]
    return [*place, "--share", share, "--candidates", *candidates]


def test_prints_a_ranking_with_groups_and_what_is_not_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(folder, f"left={folder}", f"right={folder}")) == 0
    output = capsys.readouterr()
    assert "target task: 100 dev documents" in output.out
    assert "no recommendation between " in output.out
    assert "expected improvement: none: no study\njudged: on three targets in six studies" in output.out
    rows = [line.split() for line in output.out.splitlines() if line.split()[1:2] in (["left"], ["right"])]
    assert [row[0] for row in rows] == ["1", "1"]
    assert f"{folder}/left/train.jsonl:" in output.out
    assert "error" not in output.err  # progress, if it takes seconds


def test_a_folder_that_is_not_a_store_holds_no_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "notes.txt").write_text("mine")
    arguments = command(folder, f"left={folder}", f"right={folder}")
    arguments[arguments.index("--store") + 1] = str(folder / "other")
    assert main(arguments) == 0
    assert "expected improvement: none: no study" in capsys.readouterr().out


def test_single_files_reach_the_proposed_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"{name}={folder}/{name}/train.jsonl" for name in ("left", "right")]
    assert main([*command(folder, *files), "--json"]) == 0
    assert set(files) <= set(shlex.split(json.loads(capsys.readouterr().out)["deciding_command"]))


def test_the_proposed_study_can_be_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(folder, f"left={folder}", f"right={folder}"), "--json"]) == 0
    proposed = shlex.split(json.loads(capsys.readouterr().out)["deciding_command"])
    arguments = ["plan", str(REPOSITORY / proposed[2]), *proposed[3:], "--store", str(folder / "store"), "--json"]
    assert main([*arguments, "--set", "trunk_seeds=(0, 1)"]) == 0
    assert json.loads(capsys.readouterr().out)["study"] == "deciding"


def test_test_items_in_a_candidate_end_with_status_2_and_the_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(folder, f"dirty={folder}/dirty.jsonl")) == 2
    output = capsys.readouterr()
    assert f"{folder}/dirty.jsonl:8" in output.err
    assert output.out == ""


def test_a_plot_is_drawn(folder: Path) -> None:
    plot = folder / "ranking.png"
    assert main([*command(folder, f"left={folder}", f"right={folder}"), "--plot", str(plot)]) == 0
    assert plot.stat().st_size > 3_000


@pytest.mark.parametrize("share", ["0", "1", "20", "nan", "x", ""])
def test_a_share_is_a_number_between_0_and_1(folder: Path, share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command(folder, f"left={folder}", share=share))
    assert stopped.value.code == 2
    assert "expected a share of the tokens between 0 and 1" in capsys.readouterr().err


def test_a_single_file_is_no_target(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(folder, f"left={folder}")
    arguments[2] = f"task={folder}/dirty.jsonl"
    assert main(arguments) == 2
    assert "--target: expected a source with a dev and a test split, got the single file" in capsys.readouterr().err


def test_fields_and_shares_are_declared_as_for_data_and_reach_the_proposed_study(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = folder / "left" / "train.jsonl"
    train.write_text(train.read_text().replace('"text"', '"content"'), encoding="utf-8")
    half = f"mix={folder}/right,share=0.5"
    options = command(folder, f"left={folder},text=content", half, f"mix={folder}/left,text=content,share=0.5")
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in found["candidates"]} == {"left", "mix"}
    proposed = shlex.split(found["deciding_command"])
    assert {f"left={folder},text=content", half, f"mix={folder}/left,text=content,share=0.5"} <= set(proposed)
    assert main(command(folder, f"left={folder},text=content", f"right={folder},text=content")) == 2
    assert "expected field 'content', declared by text=content" in capsys.readouterr().err


@pytest.mark.parametrize("duration", ["0s", "10", "min", "-1min", "nanmin", "1e9s", ""])
def test_a_duration_has_a_number_and_a_unit(folder: Path, duration: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command(folder, f"left={folder}"), "--proxy", duration])
    assert stopped.value.code == 2
    assert "--proxy" in capsys.readouterr().err


@pytest.mark.slow
def test_small_models_are_trained_with_each_candidate_and_a_second_command_trains_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("midstudy.run.proxy.MOST_STEPS", 20)
    write_documents(folder / "other" / "train.jsonl", language_documents(3, number=500, seed=3))
    arguments = [*command(folder, f"left={folder}", f"other={folder}"), "--proxy", "30min", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)["proxy"]
    assert found["num_steps"] == 20
    assert set(found["scores"]) == {"left", "other"}
    assert found["scores"]["left"]["gain"] > found["scores"]["other"]["gain"]
    assert found["scores"]["left"]["weight"] > found["scores"]["other"]["weight"]

    monkeypatch.setattr("midstudy.cli.commands._conduct", lambda *arguments: pytest.fail("trained again"))
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["proxy"] == found
    assert main(arguments[:-1]) == 0
    printed = capsys.readouterr().out
    assert "small models rank: left, other; how well they rank has not been judged" in printed
    assert "expected improvement: none: no study" in printed
