"""Released models as starts: checkpoints in the layout of the Hugging Face Hub, from a folder or the Hub.

A plan needs only the two small files, `config.json` and `tokenizer.json`; the stage that imports the weights of a Hub model
fetches them. Weights must be safetensors: a pickle can run code when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from midstudy.data.digests import file_digest
from midstudy.data.hub import require_commit
from midstudy.data.tokenizer import END_OF_TEXT_ID, FILE_NAME
from midstudy.model.config import shape_of_config
from midstudy.recipe.curriculum import Start
from midstudy.recipe.data import END_OF_TEXT, ReleasedTokenizer, Source
from midstudy.recipe.errors import RecipeError, inside
from midstudy.recipe.plain import plain
from midstudy.recipe.start_weights import Release

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth")


def released_start(argument: str, *, step: int | None = None, end_of_text: str = END_OF_TEXT) -> Start:
    """Return the start given by a released checkpoint: its model, weights and tokenizer.

    Args:
        argument: a folder, or `hub:OWNER/NAME@COMMIT`. On the Hub, each step of a Pythia model is a branch, whose page shows
            the commit.
        step: the pretraining step of the checkpoint, a label for readers. The commit or the folder selects the weights.
        end_of_text: as in `released_tokenizer`.

    Raises:
        RecipeError: `step` is not a step, the model is of another architecture, or its tokenizer cannot be used; the
            message names the field.
        ValueError: a file is missing or damaged, the weights are pickled, or the Hub cannot be reached.
    """
    if not argument.strip():
        raise ValueError("release: expected a folder or hub:OWNER/NAME@COMMIT, got nothing. Is a variable not set?")
    step = plain(step)
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
        raise RecipeError(
            "step",
            expected="a whole number of at least 0, as a label for readers",
            got=step,
            fix="The commit after @ selects the weights: on the Hub, each step of a Pythia model is a branch.",
        )
    if argument.startswith("hub:"):
        part, at, revision = argument.removeprefix("hub:").rpartition("@")
        if not at or not part:
            raise ValueError(
                f"release: expected a folder or hub:OWNER/NAME@COMMIT, got {argument}; the commit pins the weights."
            )
        require_commit(part, revision)
        folder, name = _fetched(part, revision, (_CONFIG, FILE_NAME)), part.rpartition("/")[2]
        weights = tokenizer = Source(kind="hub", part=part, revision=revision)
    else:
        folder = Path(os.path.expanduser(argument)).absolute()
        if not folder.is_dir():
            raise ValueError(f"{argument}: no such folder. Expected a folder or hub:OWNER/NAME@COMMIT.")
        name = folder.name
        digests = ((path, file_digest(path)) for path in _weight_files(folder))
        weights = Source(kind="files", part="", revision=_digest(digests), location=str(folder))
        tokenizer = Source(kind="files", part="", revision=file_digest(_present(folder, FILE_NAME)), location=str(folder))
    with inside(f"release.{name}"):
        return Start(
            model=shape_of_config(_json(_present(folder, _CONFIG))),
            tokenizer=_tokenizer(_present(folder, FILE_NAME), name, tokenizer, end_of_text=end_of_text),
            seed=None,
            weights=Release(name=name, source=weights, step=step),
        )


def released_tokenizer(argument: str, *, end_of_text: str) -> ReleasedTokenizer:
    """Return the tokenizer of a released model, for models whose weights are drawn here.

    Args:
        argument: a folder with `tokenizer.json`, or `hub:OWNER/NAME@COMMIT`.
        end_of_text: the special token that ends every document: `<|end_of_text|>` in Llama 3, `<|endoftext|>` in Qwen 2.5.
            A chat model may state another one as its end of a turn.

    Raises:
        RecipeError: the tokenizer has no such special token, or truncates or pads texts.
        ValueError: the file is missing or damaged, or the Hub cannot be reached.
    """
    if argument.startswith("hub:"):
        part, revision = _hub_tokenizer(argument)
        folder, name = _fetched(part, revision, (FILE_NAME,)), part.rpartition("/")[2]
        source = Source(kind="hub", part=part, revision=revision)
    else:
        folder = Path(os.path.expanduser(argument)).absolute()
        name = folder.name
        source = Source(kind="files", part="", revision=file_digest(_present(folder, FILE_NAME)), location=str(folder))
    with inside(f"release.{name}"):
        return _tokenizer(_present(folder, FILE_NAME), name, source, end_of_text=end_of_text)


def hub_tokenizer_bytes(argument: str) -> bytes:
    """Return the bytes of the `tokenizer.json` of `hub:OWNER/NAME@COMMIT`.

    Raises:
        ValueError: the argument has another form, the file is missing, or the Hub cannot be reached.
    """
    part, revision = _hub_tokenizer(argument)
    return _present(_fetched(part, revision, (FILE_NAME,)), FILE_NAME).read_bytes()


def _hub_tokenizer(argument: str) -> tuple[str, str]:
    part, at, revision = argument.removeprefix("hub:").rpartition("@")
    if not at or not part:
        raise ValueError(f"tokenizer: expected a folder or hub:OWNER/NAME@COMMIT, got {argument}.")
    require_commit(part, revision)
    return part, revision


def release_files(release: Release) -> list[Path]:
    """Return the safetensors files of a release; those of the Hub are fetched.

    Raises:
        ValueError: a file is missing, it changed since the plan, or the Hub cannot be reached.
    """
    source = release.source
    if source.kind == "hub":
        return _weight_files(_fetched(source.part, source.revision, ("*.safetensors", _INDEX)))
    files = _weight_files(Path(source.location))
    _require_unchanged(Path(source.location), _digest((path, file_digest(path)) for path in files), source.revision)
    return files


def release_bytes(release: Release) -> Iterator[tuple[Path, bytes]]:
    """Yield the safetensors files of a release with their bytes; verified only when the iteration is complete.

    Raises:
        ValueError: see `release_files`; also if the bytes read differ from the plan's digest.
    """
    digests = []
    for path in release_files(release):
        content = path.read_bytes()
        digests.append((path, hashlib.sha256(content).hexdigest()))
        if release.source.kind == "hub":
            _require_blob(*digests[-1])
        yield path, content
    if release.source.kind == "files":
        _require_unchanged(Path(release.source.location), _digest(digests), release.source.revision)


def _require_blob(path: Path, digest: str) -> None:
    """Check a large file against its name in the Hub cache, its SHA-256; the commit pins the name, not the bytes."""
    name = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name) and name != digest:
        raise ValueError(
            f"{path.resolve()}: damaged: expected sha256 {name[:12]} (its file name), got {digest[:12]}. Remove it; the "
            "next run fetches it again."
        )


def tokenizer_bytes(tokenizer: ReleasedTokenizer) -> bytes:
    """Return the bytes of a release's `tokenizer.json`.

    Raises:
        ValueError: it is missing, it changed since the plan, or the Hub cannot be reached.
    """
    source = tokenizer.source
    is_hub = source.kind == "hub"
    folder = _fetched(source.part, source.revision, (FILE_NAME,)) if is_hub else Path(source.location)
    path = _present(folder, FILE_NAME)
    content = path.read_bytes()
    _require_unchanged(path, hashlib.sha256(content).hexdigest(), tokenizer.digest)
    return content


def _fetched(part: str, revision: str, patterns: Sequence[str]) -> Path:
    """Fetch the files of a Hub model that match `patterns`, as far as they exist; return their folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(part, revision=revision, allow_patterns=list(patterns)))
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(f"hub:{part}: cannot be read: {str(error).strip().splitlines()[0]}") from error
    except OSError as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"hub:{part}: the Hub cannot be reached ({first}). Connect to the network, or name a folder."
        ) from error


def _present(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{path}: missing. Expected a folder with {_CONFIG}, {FILE_NAME} and {_WEIGHTS}.")
    return path


def _weight_files(folder: Path) -> list[Path]:
    """Return `model.safetensors`, or the shards that its index names, sorted by name."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if (folder / _INDEX).is_file():
        named = _json(folder / _INDEX).get("weight_map")
        names = list(named.values()) if isinstance(named, dict) else []
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError(f"{folder / _INDEX}: its weight_map does not name files of this folder. Fetch the file again.")
        return [_present(folder, name) for name in sorted(set(names))]
    for pattern in _PICKLES:
        for pickled in sorted(folder.glob(pattern)):
            raise ValueError(
                f"{pickled}: expected {_WEIGHTS}, got pickled weights, which can run code when they are read. Convert them "
                "(load with transformers, save_pretrained), or name a commit that has safetensors."
            )
    raise ValueError(f"{folder / _WEIGHTS}: missing, and so is {_INDEX}. Name a checkpoint, or a commit, with safetensors.")


def _digest(files: Iterable[tuple[Path, str]]) -> str:
    """Return the SHA-256 over the name and digest of each file."""
    lines = "".join(f"{path.name} {digest}\n" for path, digest in files)
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def _require_unchanged(path: Path, digest: str, planned: str) -> None:
    if digest != planned:
        raise ValueError(
            f"{path}: changed since the plan: expected sha256 {planned[:12]}, got {digest[:12]}. Restore the release, or "
            "plan again with the changed one."
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}). Fetch the file again.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}.")
    return value


def _tokenizer(path: Path, name: str, source: Source, *, end_of_text: str) -> ReleasedTokenizer:
    content = path.read_bytes()
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library does not raise anything more specific
        raise ValueError(f"{path}: not a tokenizer ({error}). Fetch the file again.") from None
    end_id = tokenizer.token_to_id(end_of_text)
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    if end_id is None or (end_id not in special and end_id != END_OF_TEXT_ID):
        raise RecipeError(
            f"tokenizer.{end_of_text}",
            expected="a special token of the tokenizer, which ends documents",
            got="no such token" if end_id is None else f"id {end_id}, a token of ordinary text",
            fix="Name the token with end_of_text: <|end_of_text|> in Llama 3, for example.",
        )
    if tokenizer.truncation or tokenizer.padding:
        raise RecipeError(
            "tokenizer.truncation",
            expected="null for truncation and padding",
            got="a tokenizer that truncates or pads texts",
        )
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return ReleasedTokenizer(
        name=name,
        digest=hashlib.sha256(content).hexdigest(),
        vocab_size=vocab_size,
        source=source,
        end_of_text_id=end_id,
    )
