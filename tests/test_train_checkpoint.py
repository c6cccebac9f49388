"""Checkpoints: complete or absent, every byte checked, the one before it used when the last is damaged."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import begin, curriculum, same_bits, train, weights

from midstudy.train import checkpoint
from midstudy.train.checkpoint import CheckpointError
from midstudy.train.environment import ALLOCATOR
from midstudy.train.rolling import latest_valid
from midstudy.train.run import TrainingRun


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


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def test_a_checkpoint_holds_masters_moments_and_a_readable_manifest(saved: Path) -> None:
    manifest = json.loads((saved / "checkpoint.json").read_text())
    assert (manifest["step"], manifest["precision"], manifest["num_updates"]) == (2, "bf16_mixed", 2)
    tensors, moments = load_file(saved / "model.safetensors"), load_file(saved / "optimizer.safetensors")
    assert {tensor.dtype for tensor in (*tensors.values(), *moments.values())} == {torch.float32}
    assert len(moments) == 2 * len(tensors)
    assert sorted(path.name for path in saved.iterdir()) == sorted([*manifest["files"], "checkpoint.json"])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink], ids=["flipped bit", "cut short", "deleted"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_damage_is_found_and_the_file_named(saved: Path, name: str, damage) -> None:
    damage(saved / name)
    with pytest.raises(CheckpointError, match=name):
        TrainingRun.load(saved)
    with pytest.raises(CheckpointError, match=name):
        checkpoint.check(saved)


def test_a_damaged_manifest_is_found(saved: Path) -> None:
    manifest = saved / "checkpoint.json"
    text = manifest.read_text()
    manifest.write_text(text[:50])
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: not readable as JSON"):
        TrainingRun.load(saved)
    manifest.write_text(text.replace('"schema": 1', '"schema": 99'))
    with pytest.raises(CheckpointError, match="schema 99; this version reads 1"):
        TrainingRun.load(saved)
    manifest.write_text(text.replace('"num_updates"', '"updates"'))
    with pytest.raises(CheckpointError, match="no field 'num_updates'"):
        TrainingRun.load(saved)
    manifest.unlink()
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        TrainingRun.load(saved)


def test_the_one_before_is_used_with_a_warning(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = TrainingRun.load(saved)
    train(run, curriculum("bf16_mixed"), 3)
    newer = saved.with_name("step-00000003")
    run.save(newer, with_optimizer=True)
    assert latest_valid(saved.parent) == newer
    flip_a_bit(newer / "optimizer.safetensors")
    with caplog.at_level(logging.WARNING):
        assert latest_valid(saved.parent) == saved
    assert "step-00000003/optimizer.safetensors" in caplog.text


def test_the_latest_is_found_among_the_attempts(saved: Path, tmp_path: Path) -> None:
    assert latest_valid(tmp_path / "never started", saved.parent) == saved
    assert latest_valid(tmp_path / "never started") is None


def test_a_checkpoint_is_never_overwritten(saved: Path) -> None:
    with pytest.raises(FileExistsError, match="never overwritten"):
        TrainingRun.load(saved).save(saved, with_optimizer=True)


def test_a_failed_write_leaves_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TrainingRun.load(saved)

    def full_disk(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "_flush", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        run.save(saved.with_name("step-00000009"), with_optimizer=True)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from midstudy.train import checkpoint
from midstudy.train.run import TrainingRun
folder = Path({folder!r})
run = TrainingRun.load(folder)
flush, calls = checkpoint._flush, []
def killed_at_the_third(path):
    calls.append(path)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(path)
checkpoint._flush = killed_at_the_third
run.save(folder.with_name("step-00000003"), with_optimizer=True)
"""


def test_a_process_killed_while_saving_leaves_the_one_before(saved: Path) -> None:
    script = KILLED_WHILE_SAVING.format(tests=str(Path(__file__).parent), folder=str(saved))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert killed.returncode == -9, killed.stderr
    assert not saved.with_name("step-00000003").exists()
    assert latest_valid(saved.parent) == saved


def test_what_is_loaded_is_what_was_saved(saved: Path) -> None:
    first, second = TrainingRun.load(saved), TrainingRun.load(saved)
    assert same_bits(weights(first), weights(second))
    assert first.model.shape == begin().model.shape
    assert first.precision == "bf16_mixed"


def test_the_allocator_settings_are_those_that_were_measured() -> None:
    assert ALLOCATOR == {
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "8589934592",
        "MALLOC_TOP_PAD_": "268435456",
    }
