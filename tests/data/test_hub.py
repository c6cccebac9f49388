"""Hub data sets through `datasets`: a local folder, read by the same library, stands in for the Hub."""

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


def test_validation_is_the_dev_split_and_a_missing_split_is_an_error(local: Path) -> None:
    assert tuple(hub.present_splits(str(local), "", COMMIT)) == ("train", "dev")
    assert [row["question"] for row in hub.load(str(local), "", COMMIT, "dev")] == ["validation 0?"]
    with pytest.raises(ValueError, match="expected a test split, got train, dev"):
        list(hub.load(str(local), "", COMMIT, "test"))


@pytest.mark.parametrize("name", ["validation", "dev", "valid", "val"])
def test_the_dev_split_may_have_the_same_names_as_in_a_folder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import datasets

    hub_splits = ["train", name]
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *args, **keywords: hub_splits)
    assert hub.present_splits("owner/set", "", COMMIT) == {"train": "train", "dev": name}
    hub_splits.append("dev" if name != "dev" else "val")
    with pytest.raises(ValueError, match=r"hub:owner/set: expected one dev split, got .* and .*\."):
        hub.present_splits("owner/set", "", COMMIT)
    hub_splits[:] = ["training", "heldout"]
    with pytest.raises(ValueError, match="expected a train split, got training, heldout"):
        hub.present_splits("owner/set", "", COMMIT)


def test_without_a_revision_nothing_is_read(local: Path) -> None:
    with pytest.raises(ValueError, match="got no commit"):
        list(hub.load(str(local), "", "", "train"))


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], COMMIT.upper()])
def test_a_branch_or_tag_is_not_accepted_as_a_revision(revision: str) -> None:
    with pytest.raises(ValueError, match="40 hex digits"):
        hub.require_commit("owner/set", revision)


def test_an_unknown_config_is_an_error(local: Path) -> None:
    with pytest.raises(ValueError, match=r"hub:.*cannot be read"):
        list(hub.load(str(local), "no-such-config", COMMIT, "train"))


def test_without_network_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"hub:owner/no-such-set-here: the Hub cannot be reached .*Connect to the network, or pass a folder"
    ):
        list(hub.load("owner/no-such-set-here", "", COMMIT, "train"))
