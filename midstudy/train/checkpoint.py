"""Checkpoints on disk: safetensors and a manifest, written whole or not at all, checked on load.

A checkpoint is a folder:

    checkpoint.json         schema, step, precision, model shape, ... and size and SHA-256 of the other files
    model.safetensors       the trained weights: fp32, or bf16 for `bf16_true`
    optimizer.safetensors   Adam's moments; absent from a checkpoint that is only evaluated or fine-tuned from anew

No random state is kept, because training draws nothing: batches are a function of the step, and there is no dropout.
The folder is written under a temporary name beside its own, flushed to disk with its directory, and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from midstudy.recipe.canonical import expanded
from midstudy.recipe.decode import decode
from midstudy.recipe.model import ModelShape

SCHEMA_VERSION = 1
MANIFEST, MODEL, OPTIMIZER = "checkpoint.json", "model.safetensors", "optimizer.safetensors"


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or damaged; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state as it lies on disk.

    `weights` and `moments` are tensors by name; `moments` is none when the optimizer was not saved. `num_updates` counts
    the optimizer's updates since it was last reset, `tokens_seen` the target tokens trained on since step 0.
    """

    step: int
    state_id: str
    precision: str
    shape: ModelShape
    tokens_seen: int
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] | None
    num_updates: int


def _flush(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint to `folder`, which must not exist yet; it appears complete or not at all.

    Raises:
        FileExistsError: `folder` is there already.
        OSError: the disk is full or not writable; what was written is removed.
    """
    if folder.exists():
        raise FileExistsError(f"{folder}: there is a checkpoint here already; it is never overwritten.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        files = {MODEL: checkpoint.weights}
        if checkpoint.moments is not None:
            files[OPTIMIZER] = checkpoint.moments
        for name, tensors in files.items():
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, temporary / name)
            _flush(temporary / name)
        manifest = {
            "schema": SCHEMA_VERSION,
            "step": checkpoint.step,
            "state_id": checkpoint.state_id,
            "precision": checkpoint.precision,
            "model": expanded(checkpoint.shape),
            "tokens_seen": checkpoint.tokens_seen,
            "num_updates": checkpoint.num_updates,
            "files": {
                name: {"bytes": (temporary / name).stat().st_size, "sha256": _digest(temporary / name)} for name in files
            },
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _flush(temporary / MANIFEST)
        _flush(temporary)
        temporary.rename(folder)
        _flush(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, SafetensorError):  # what the library raises for a full disk is no OSError
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error), str(folder)) from error
        raise


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; {folder} is no complete checkpoint.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); the file is damaged.") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA_VERSION:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise CheckpointError(
            f"{path}: schema {found!r}; this version reads {SCHEMA_VERSION}. Use the midstudy that wrote it."
        )
    return manifest


def _check(path: Path, expected: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing, though {MANIFEST} lists it.")
    num_bytes = path.stat().st_size
    if num_bytes != expected["bytes"]:
        raise CheckpointError(f"{path}: {num_bytes} bytes instead of {expected['bytes']}; the file is cut or changed.")
    if _digest(path) != expected["sha256"]:
        raise CheckpointError(f"{path}: its SHA-256 is not the one in {MANIFEST}; the file is damaged.")


def read(folder: Path, *, with_optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint and check every byte of it.

    Args:
        folder: what `write` made.
        with_optimizer: read Adam's moments too, where they were saved.

    Raises:
        CheckpointError: a file is missing, cut, changed or of an unknown schema.
    """
    manifest = _manifest(folder)
    try:
        files = manifest["files"]
        wanted = [MODEL, *([OPTIMIZER] if with_optimizer and OPTIMIZER in files else [])]
        for name in wanted:
            _check(folder / name, files[name])
        tensors = {name: load_file(folder / name) for name in wanted}
        return Checkpoint(
            step=manifest["step"],
            state_id=manifest["state_id"],
            precision=manifest["precision"],
            shape=decode(manifest["model"], "checkpoint.model"),
            tokens_seen=manifest["tokens_seen"],
            weights=tensors[MODEL],
            moments=tensors.get(OPTIMIZER),
            num_updates=manifest["num_updates"],
        )
    except KeyError as error:
        raise CheckpointError(f"{folder / MANIFEST}: no field {error}; the file is damaged.") from None
    except SafetensorError as error:
        raise CheckpointError(f"{folder}: {error}; the file is damaged.") from None


def check(folder: Path) -> int:
    """The step of a checkpoint, once all its files are found whole.

    Raises:
        CheckpointError: as `read`.
    """
    manifest = _manifest(folder)
    try:
        for name, expected in manifest["files"].items():
            _check(folder / name, expected)
        return int(manifest["step"])
    except KeyError as error:
        raise CheckpointError(f"{folder / MANIFEST}: no field {error}; the file is damaged.") from None
