"""Checkpoints: complete or absent, every byte verified, and the previous one used if the last is damaged."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders.places import TESTS
from builders.training_runs import begin, curriculum, same_bits, train, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from midstudy.files.sealed import sealed
from midstudy.train import checkpoint
from midstudy.train.checkpoint import CheckpointError
from midstudy.train.engine import TrainingRun
from midstudy.train.environment import ALLOCATOR
from midstudy.train.rolling import latest_valid, newest


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    run = begin("bf16_mixed")
    train(run, curriculum("bf16_mixed"), 2)
    run.save(tmp_path / "step-00000002", with_optimizer=True)
    return tmp_path / "step-00000002"


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def test_a_checkpoint_holds_masters_moments_and_a_readable_manifest(saved: Path) -> None:
    manifest = json.loads((saved / "checkpoint.json").read_text())
    assert (manifest["step"], manifest["precision"], manifest["num_updates"]) == (2, "bf16_mixed", 2)
    tensors, moments = load_file(saved / "model.safetensors"), load_file(saved / "optimizer.safetensors")
    assert {tensor.dtype for tensor in (*tensors.values(), *moments.values())} == {torch.float32}
    assert len(moments) == 2 * len(tensors)
    assert sorted(path.name for path in saved.iterdir()) == sorted([*manifest["files"], "checkpoint.json"])


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink], ids=["flipped bit", "truncated", "deleted"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_damage_is_detected_and_the_file_named(saved: Path, name: str, damage) -> None:
    damage(saved / name)
    with pytest.raises(CheckpointError, match=name):
        TrainingRun.load(saved)
    with pytest.raises(CheckpointError, match=name):
        checkpoint.check(saved)


def test_a_damaged_manifest_is_detected(saved: Path) -> None:
    manifest = saved / "checkpoint.json"
    text = manifest.read_text()
    manifest.write_text(text[:50])
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: its SHA-256 differs"):
        TrainingRun.load(saved)
    manifest.write_text(text.replace('"num_updates": 2', '"num_updates": 3'))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: its SHA-256 differs from the one in its last line"):
        TrainingRun.load(saved)
    manifest.write_text(text[: text.rindex(",")] + "}")
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: its SHA-256 differs"):
        TrainingRun.load(saved)
    manifest.unlink()
    with pytest.raises(CheckpointError, match="is not a complete checkpoint"):
        TrainingRun.load(saved)


def test_the_manifest_records_what_the_random_state_depends_on(saved: Path) -> None:
    text = (saved / "checkpoint.json").read_text()
    assert json.loads(text)["random"] == {"scheme": "counter", "function_of": ["phase seed", "step", "rank"]}


def resealed(folder: Path, **changes: object) -> None:
    """Rewrite a manifest with changed fields and a valid digest."""
    fields = json.loads((folder / "checkpoint.json").read_text())
    del fields["sha256"]
    (folder / "checkpoint.json").write_bytes(sealed(fields | changes))


def test_a_manifest_with_other_fields_is_rejected(saved: Path) -> None:
    original = (saved / "checkpoint.json").read_bytes()
    resealed(saved, schema=99)
    with pytest.raises(CheckpointError, match="expected schema 2, got 99"):
        TrainingRun.load(saved)
    (saved / "checkpoint.json").write_bytes(original)
    without_seal = {name: value for name, value in json.loads(original).items() if name != "sha256"}
    (saved / "checkpoint.json").write_text(json.dumps(without_seal, indent=1) + "\n")
    with pytest.raises(CheckpointError, match="its SHA-256 differs"):
        TrainingRun.load(saved)


# -- the previous checkpoint ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return rolling checkpoints of steps 2 and 3."""
    folder = tmp_path_factory.mktemp("rolling")
    run = begin()
    for step in (2, 3):
        train(run, curriculum(), step)
        run.save(folder / f"step-{step:08d}", with_optimizer=True)
    return folder / "step-00000002", folder / "step-00000003"


@contextlib.contextmanager
def warnings_of_rolling() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("midstudy.train.rolling")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


@given(data=st.data(), name=st.sampled_from(["checkpoint.json", "model.safetensors", "optimizer.safetensors"]))
@settings(max_examples=150)
def test_any_changed_byte_and_any_truncation_is_detected_and_the_previous_one_used(two_checkpoints, data, name: str) -> None:
    before, last = two_checkpoints
    path = last / name
    whole = path.read_bytes()
    # The first and last bytes may be ones that the format does not read, so test them more often.
    position = data.draw(
        st.integers(0, len(whole) - 1) | st.integers(0, 200) | st.integers(len(whole) - 200, len(whole) - 1)
    )
    flip = data.draw(st.integers(0, 255), label="bits to flip; 0 to truncate instead")
    damaged = whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :] if flip else whole[:position]
    path.write_bytes(damaged)
    try:
        with warnings_of_rolling() as messages:
            loaded = newest(TrainingRun.load, last.parent)
        assert loaded is not None
        assert (loaded[0], loaded[1].step) == (before, 2)
        assert len(messages) == 1
        assert str(path) in messages[0]
        with warnings_of_rolling():
            assert latest_valid(last.parent) == before
    finally:
        path.write_bytes(whole)
    assert latest_valid(last.parent) == last


def test_if_every_checkpoint_is_damaged_there_is_none(two_checkpoints) -> None:
    with warnings_of_rolling() as messages:
        for folder in two_checkpoints:
            (folder / "checkpoint.json").rename(folder / "gone.json")
        try:
            assert newest(TrainingRun.load, two_checkpoints[0].parent) is None
        finally:
            for folder in two_checkpoints:
                (folder / "gone.json").rename(folder / "checkpoint.json")
    assert len(messages) == 2


@pytest.mark.parametrize("files_read", [0, 1, 2, 3])
def test_a_checkpoint_that_another_attempt_deletes_while_it_is_read_is_skipped(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_read: int
) -> None:
    run = TrainingRun.load(saved)
    train(run, curriculum("bf16_mixed"), 3)
    newer = saved.with_name("step-00000003")
    run.save(newer, with_optimizer=True)
    reads = []

    def then_gone(read):
        def reading(path: Path):
            if path.parent == newer:
                reads.append(path)
                if len(reads) == files_read + 1:
                    shutil.rmtree(newer)
            return read(path)

        return reading

    monkeypatch.setattr(checkpoint, "_digest", then_gone(checkpoint._digest))
    monkeypatch.setattr(checkpoint, "load_file", then_gone(checkpoint.load_file))
    loaded = newest(TrainingRun.load, saved.parent)
    assert loaded is not None
    assert loaded[0] == saved
    assert not newer.exists()


def test_the_latest_is_found_among_the_attempts(saved: Path, tmp_path: Path) -> None:
    assert latest_valid(tmp_path / "never started", saved.parent) == saved
    assert latest_valid(tmp_path / "never started") is None


def test_a_checkpoint_is_never_overwritten(saved: Path) -> None:
    with pytest.raises(FileExistsError, match="never overwritten"):
        TrainingRun.load(saved).save(saved, with_optimizer=True)


@pytest.mark.parametrize("where", ["model.safetensors", "optimizer.safetensors"])
def test_a_full_disk_leaves_the_previous_checkpoint(two_checkpoints, tmp_path: Path, where: str) -> None:
    before, last = two_checkpoints
    shutil.copytree(before, tmp_path / before.name)
    run = TrainingRun.load(last)
    sizes = {name: (last / name).stat().st_size for name in ("model.safetensors", "optimizer.safetensors")}
    assert sizes["model.safetensors"] < sizes["optimizer.safetensors"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[where] - 1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run.save(tmp_path / last.name, with_optimizer=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == [before.name]
    assert latest_valid(tmp_path) == tmp_path / before.name
    run.save(tmp_path / last.name, with_optimizer=True)
    assert latest_valid(tmp_path) == tmp_path / last.name


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_sync_leaves_no_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    run = TrainingRun.load(saved)

    def failing(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(checkpoint, "sync", failing)
    with pytest.raises(OSError, match=os.strerror(number)):
        run.save(saved.with_name("step-00000009"), with_optimizer=True)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from midstudy.train import checkpoint
from midstudy.train.engine import TrainingRun
folder = Path({folder!r})
run = TrainingRun.load(folder)
flush, calls = checkpoint.sync, []
def killed(path):
    calls.append(path)
    if len(calls) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(path)
checkpoint.sync = killed
run.save(folder.with_name("step-00000003"), with_optimizer=True)
"""


@pytest.mark.parametrize("number", [1, 3], ids=["at the weights", "at the manifest"])
def test_a_process_killed_while_saving_leaves_the_previous_checkpoint(saved: Path, number: int) -> None:
    script = KILLED_WHILE_SAVING.format(tests=str(TESTS), folder=str(saved), number=number)
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert not saved.with_name("step-00000003").exists()
    assert latest_valid(saved.parent) == saved


def test_the_parent_folder_of_a_new_checkpoint_is_synced_last(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename survives a crash of the machine only after the parent folder is synced."""
    synced: list[tuple[Path, bool]] = []
    sync = checkpoint.sync
    target = tmp_path / "new" / "state"

    def recorded(path: Path) -> None:
        synced.append((path, target.exists()))
        sync(path)

    monkeypatch.setattr(checkpoint, "sync", recorded)
    checkpoint.write(checkpoint.read(saved), target)
    assert synced[-1] == (target.parent, True)
    assert not any(exists for _, exists in synced[:-1])


def test_loading_restores_the_saved_state(saved: Path) -> None:
    first, second = TrainingRun.load(saved), TrainingRun.load(saved)
    assert same_bits(weights(first), weights(second))
    assert first.model.shape == begin().model.shape
    assert first.precision == "bf16_mixed"


def test_the_allocator_settings_are_the_measured_ones() -> None:
    assert ALLOCATOR == {
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "8589934592",
        "MALLOC_TOP_PAD_": "268435456",
    }
