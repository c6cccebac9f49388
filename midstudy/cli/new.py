"""`midstudy new FILE`: writes a commented example to edit, an experiment (`.py`) or a Slurm placement (`.toml`)."""

from __future__ import annotations

import re
import shlex
from importlib import resources
from pathlib import Path

from midstudy.recipe.errors import RecipeError

_EXAMPLES = {
    ".py": ("midstudy.studies.bridging", "question.py"),
    ".toml": ("midstudy.launch.slurm", "placement.toml"),
}


def write_example(path: Path) -> None:
    """Write the example of the file's suffix; its study and commands are named after the file.

    Raises:
        RecipeError: another suffix, or a file of this name exists.
        OSError: it cannot be written.
    """
    if path.suffix not in _EXAMPLES:
        raise RecipeError(
            "FILE",
            expected="a name that ends in .py, for an experiment, or in .toml, for a placement on Slurm",
            got=str(path),
        )
    package, name = _EXAMPLES[path.suffix]
    text = resources.files(package).joinpath(name).read_text("utf-8")
    study = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_")[:60] or "question"
    text = text.replace(name, shlex.quote(str(path))).replace('name="question"', f'name="{study}"')
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError("FILE", expected="a new file", got=f"{path}, which exists") from None
