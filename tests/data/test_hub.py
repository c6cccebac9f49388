"""Hub data sets through `datasets`: here a local folder takes the place of the hub, read by the same library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from midstudy.data import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    for split, count in (("train", 3), ("validation", 1)):
        rows = [{"question": f"{split} {number}?", "answer": str(number)} for number in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_rows_are_streamed_in_order(local: Path) -> None:
    rows = list(hub.load(str(local), "", COMMIT, "train"))
    assert [row["question"] for row in rows] == ["train 0?", "train 1?", "train 2?"]
    assert rows[2]["answer"] == "2"


def test_validation_is_the_dev_split_and_what_is_absent_is_said(local: Path) -> None:
    assert tuple(hub.present_splits(str(local), "", COMMIT)) == ("train", "dev")
    assert [row["question"] for row in hub.load(str(local), "", COMMIT, "dev")] == ["validation 0?"]
    with pytest.raises(ValueError, match="no test split; found: train, dev"):
        list(hub.load(str(local), "", COMMIT, "test"))


@pytest.mark.parametrize("name", ["validation", "dev", "valid", "val"])
def test_the_dev_split_has_the_names_that_it_may_have_in_a_folder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import datasets

    found = ["train", name]
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *args, **keywords: found)
    assert hub.present_splits("owner/set", "", COMMIT) == {"train": "train", "dev": name}
    found.append("dev" if name != "dev" else "val")
    with pytest.raises(ValueError, match=r"hub:owner/set: found .* and .* for the dev split; allowed: one"):
        hub.present_splits("owner/set", "", COMMIT)
    found[:] = ["training", "heldout"]
    with pytest.raises(ValueError, match="the train split is missing; the hub has: training, heldout"):
        hub.present_splits("owner/set", "", COMMIT)


def test_without_a_revision_nothing_is_read(local: Path) -> None:
    with pytest.raises(ValueError, match="no revision"):
        list(hub.load(str(local), "", "", "train"))


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], COMMIT.upper()])
def test_a_branch_or_tag_is_no_revision(revision: str) -> None:
    with pytest.raises(ValueError, match="40 hex digits"):
        hub.require_commit("owner/set", revision)


def test_a_config_that_is_not_there_is_an_error(local: Path) -> None:
    with pytest.raises(ValueError, match=r"hub:.*cannot be read"):
        list(hub.load(str(local), "no-such-config", COMMIT, "train"))


def test_without_network_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"hub:owner/no-such-set-here: the hub cannot be reached .*Connect, or name a folder"
    ):
        list(hub.load("owner/no-such-set-here", "", COMMIT, "train"))
