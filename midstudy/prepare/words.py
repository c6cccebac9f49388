"""Words as steps compare them: lower-cased runs of letters and digits, and each Han character alone."""

from __future__ import annotations

import re

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")


def words(text: str) -> list[str]:
    """Return the words of a text, in order."""
    return _WORD.findall(text.lower())
