"""A `--data` value: a place, and what is declared of it.

`PLACE[,text=FIELD][,share=NUMBER]` for a corpus, `PLACE,prompt=FIELD,completion=FIELD` or, for conversations,
`PLACE,messages=FIELD` for a task or a corpus; PLACE is `wheels`, a folder, a file or `hub:OWNER/NAME[:CONFIG]@COMMIT`. Only
these five names are declarations, so a path may hold commas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from midstudy.recipe.data import MESSAGES_FIELDS, PAIR_FIELDS, TEXT_FIELDS

PLACES = "wheels, a directory, a file, or hub:OWNER/NAME[:CONFIG]@COMMIT"

_DECLARED = re.compile(r",(text|prompt|completion|messages|share)=")


@dataclass(frozen=True, kw_only=True)
class SourceArgument:
    """A parsed value. `fields` is as in `Source`; `share` is the text after `share=`, `None` without it."""

    place: str
    fields: tuple[tuple[str, str], ...] = ()
    share: str | None = None

    @classmethod
    def parse(cls, argument: str, *, name: str, option: str = "--data") -> SourceArgument:
        """Return the value given for the corpus or task `name`; `option` is how messages name the argument.

        Raises:
            ValueError: the place, a field or the share is missing, or a declaration is given twice or alone.
        """
        place, *declared = _DECLARED.split(argument)
        if not place.strip():
            raise ValueError(f"{name}: {option}: expected {PLACES}, got nothing. Is a variable not set?")
        values: dict[str, str] = {}
        for key, value in zip(declared[::2], declared[1::2], strict=True):
            if not value.strip():
                raise ValueError(
                    f"{name}: {option} {argument}: expected {key}= and a value, got nothing. Is a variable not set?"
                )
            if key in values:
                raise ValueError(f"{name}: {option} {argument}: expected {key}= once, got {values[key]} and {value}.")
            values[key] = value
        share = values.pop("share", None)
        if values and set(values) not in ({*TEXT_FIELDS}, {*PAIR_FIELDS}, {*MESSAGES_FIELDS}):
            raise ValueError(
                f"{name}: {option} {argument}: expected text=FIELD, prompt=FIELD and completion=FIELD, or messages=FIELD, "
                f"got {' and '.join(f'{key}=' for key in values)}."
            )
        fields = tuple((key, values[key]) for key in (*TEXT_FIELDS, *PAIR_FIELDS, *MESSAGES_FIELDS) if key in values)
        return cls(place=place, fields=fields, share=share)
