"""Facts about chemical elements from a table in a package: a SQLite file, read in memory."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from midstudy.data.builtin.packages import Archive
from midstudy.data.builtin.prose import one_line

_COLUMNS = (
    "e.atomic_number, e.name, e.symbol, e.period, e.group_id, e.block, s.name, e.description, e.uses, e.sources, "
    "e.name_origin, e.discoverers, e.discovery_year, e.discovery_location, e.electronic_configuration"
)


@dataclass(frozen=True)
class Element:
    """One element; texts are single lines, and empty if missing from the table."""

    number: int
    name: str
    symbol: str
    period: int
    group: int | None
    block: str
    series: str
    description: str
    uses: str
    sources: str
    name_origin: str
    discoverers: str
    discovery_year: int | None
    discovery_location: str
    configuration: str


def elements(mendeleev: Archive) -> list[Element]:
    """Return the elements in the order of their atomic numbers."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(mendeleev.read("mendeleev/elements.db"))
    query = f"SELECT {_COLUMNS} FROM elements e JOIN series s ON s.id = e.series_id ORDER BY e.atomic_number"
    rows = connection.execute(query).fetchall()
    connection.close()
    return [
        Element(*row[:7], *(_text(cell) if place != 12 else cell for place, cell in enumerate(row[7:], 7))) for row in rows
    ]


def _text(cell: object) -> str:
    return one_line(str(cell)) if cell else ""
