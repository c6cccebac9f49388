"""Short facts from tables in packages, read from source, JSON, CSV and text files."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from midstudy.data.builtin.elements import elements
from midstudy.data.builtin.packages import Archive, open_wheel
from midstudy.data.splits import unit_hash

PACKAGES = (
    "airportsdata", "astral", "countryinfo", "faker", "iso639-lang", "mendeleev", "pint", "tzdata", "us", "webcolors",
    "werkzeug",
)  # fmt: skip
MAX_PER_TABLE = 700
"""Rows used of the two tables with thousands of rows (airports, languages): the first in order of hash."""

_ASKED = tomllib.loads(Path(__file__).with_name("facts_asked.toml").read_text("ascii"))
FORMS: dict[str, list[str]] = _ASKED["forwards"]
"""Question forms for every relation, with `{x}` for the subject."""

BACKWARDS: dict[str, list[str]] = _ASKED["backwards"]
"""Question forms for the one-to-one relations, with `{y}` for the value."""


@dataclass(frozen=True)
class Fact:
    """`subject` has `value` for `relation` (a key of `FORMS`); `one_to_one` facts can be asked in reverse."""

    relation: str
    subject: str
    value: str
    one_to_one: bool = False


def facts() -> list[Fact]:
    """Return all facts, by table, without duplicates and without empty or non-ASCII subjects and values."""
    distinct: dict[tuple[str, str], Fact] = {}
    for table, package in _TABLES:
        with open_wheel(package) as archive:
            for fact in table(archive):
                if fact.subject and fact.value and (fact.subject + fact.value).isascii():
                    distinct.setdefault((fact.relation, fact.subject), fact)
    values = Counter((fact.relation, fact.value) for fact in distinct.values())
    return [
        Fact(fact.relation, fact.subject, fact.value, fact.one_to_one and values[fact.relation, fact.value] == 1)
        for fact in distinct.values()
    ]


def _countries(archive: Archive) -> Iterator[Fact]:
    countries = [json.loads(archive.text(name)) for name in archive.names if re.search(r"/data/[^/]+\.json$", name)]
    names = {country["ISO"]["alpha3"]: country["name"] for country in countries if "ISO" in country}
    for country in countries:
        name = country["name"]
        codes = country.get("ISO", {})
        capital = country.get("capital") or ""
        yield Fact("capital", name, capital if isinstance(capital, str) else ", ".join(capital), True)
        yield Fact("demonym", name, country.get("demonym") or "", True)
        yield Fact("continent", name, country.get("region") or "")
        yield Fact("subregion", name, country.get("subregion") or "")
        yield Fact("country_code", name, codes.get("alpha2") or "", True)
        yield Fact("country_code3", name, codes.get("alpha3") or "", True)
        yield Fact("domain", name, next(iter(country.get("tld") or ()), ""), True)
        yield Fact("calling_code", name, next((f"+{code}" for code in country.get("callingCodes") or () if code), ""))
        yield Fact("area", name, f"{country['area']:,} square kilometers" if country.get("area") else "")
        borders = [names[code] for code in country.get("borders") or () if code in names]
        yield Fact("neighbors", name, ", ".join(borders))
        if country.get("borders") is not None:
            yield Fact("num_neighbors", name, str(len(country["borders"])))


def _states(archive: Archive) -> Iterator[Fact]:
    for node in ast.walk(ast.parse(archive.text("us/states.py"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "State":
            table = node.keywords[0].value
            assert isinstance(table, ast.Dict)
            state = {
                key.value: value
                for key, value in zip(table.keys, table.values, strict=True)
                if isinstance(key, ast.Constant)
            }
            values = {key: value.value for key, value in state.items() if isinstance(value, ast.Constant)}
            texts = {key: str(value) if value else "" for key, value in values.items()}
            name = texts["name"]
            if values["is_territory"] or values["is_obsolete"]:
                continue
            yield Fact("state_capital", name, texts["capital"], True)
            yield Fact("state_code", name, texts["abbr"], True)
            yield Fact("statehood", name, texts["statehood_year"])
            yield Fact("ap_abbreviation", name, texts["ap_abbr"])
            counties = state["counties"]
            assert isinstance(counties, ast.List)
            yield Fact("num_counties", name, str(len(counties.elts)))


def _cities(archive: Archive) -> Iterator[Fact]:
    for line in archive.text("astral/geocoder.py").split("\n"):
        match = re.fullmatch(r"([A-Z][^,]+),([^,]+),([A-Z]\w+/[\w/]+),[^,]+,[^,]+", line.strip())
        if match:
            yield Fact("city_country", match[1], match[2])
            yield Fact("city_zone", match[1], match[3])


def _airports(archive: Archive) -> Iterator[Fact]:
    table = csv.DictReader(io.StringIO(archive.text("airportsdata/airports.csv")))
    rows = [row for row in table if row["iata"] and row["city"] and row["name"]]
    for row in sorted(rows, key=lambda row: (unit_hash(row["iata"]), row["iata"]))[:MAX_PER_TABLE]:
        yield Fact("airport_code", row["name"], row["iata"], True)
        yield Fact("airport_city", f"{row['name']} ({row['iata']})", row["city"])
        yield Fact("airport_zone", row["name"], row["tz"])


def _languages(archive: Archive) -> Iterator[Fact]:
    names = json.loads(archive.text("iso639/data/iso-639.json"))["name"]
    plain = [name for name in names if re.fullmatch(r"[A-Z][a-z]+(?: [A-Z]?[a-z]+)*", name)]
    for name in sorted(plain, key=lambda name: (not names[name]["pt1"], unit_hash(name), name))[:MAX_PER_TABLE]:
        yield Fact("language_code", name, names[name]["pt3"], True)
        yield Fact("language_code2", name, names[name]["pt1"], True)


def _currencies(archive: Archive) -> Iterator[Fact]:
    text = archive.text("faker/providers/currency/__init__.py")
    for code, name in re.findall(r'\("([A-Z]{3})", "([^"]+)"\)', text.partition("cryptocurrencies")[0]):
        yield Fact("currency_code", name, code, True)
    text = archive.text("faker/providers/file/__init__.py")
    for kind, description in re.findall(r'"([a-z]+/[\w.+-]+)",  # ([A-Z][^;\n]{4,60});', text):
        yield Fact("mime_type", description.strip(), kind, True)


def _colors(archive: Archive) -> Iterator[Fact]:
    text = archive.text("webcolors/_definitions.py").partition("_CSS3_NAMES_TO_HEX = {")[2].partition("}")[0]
    for name, value in re.findall(r'"([a-z]+)": "(#[0-9a-f]{6})"', text):
        yield Fact("color", name, value, True)
        red, green, blue = (int(value[place : place + 2], 16) for place in (1, 3, 5))
        yield Fact("color_parts", name, f"red {red}, green {green}, blue {blue}")


def _statuses(archive: Archive) -> Iterator[Fact]:
    text = archive.text("werkzeug/http.py").partition("HTTP_STATUS_CODES = {")[2].partition("}")[0]
    for code, phrase in re.findall(r'(\d{3}): "([^"]+)"', text):
        yield Fact("status", code, phrase, True)


def _elements(archive: Archive) -> Iterator[Fact]:
    for element in elements(archive):
        yield Fact("symbol", element.name.lower(), element.symbol, True)
        yield Fact("atomic_number", element.name.lower(), str(element.number), True)
        yield Fact("period", element.name.lower(), str(element.period))
        yield Fact("group", element.name.lower(), str(element.group or ""))


def _units(archive: Archive) -> Iterator[Fact]:
    for line in archive.text("pint/default_en.txt").split("\n"):
        match = re.match(r"([a-z_]+) = ([0-9.e+-]+) \* ([a-z_]+)(?: \*\* (\d))?(?: +[=#].*)?$", line.strip())
        if match:
            power = {None: "", "2": "square ", "3": "cubic "}.get(match[4])
            if power is not None:
                yield Fact("unit", _spaced(match[1]), f"{match[2]} {power}{_spaced(match[3])}")
        prefix = re.match(r"([a-z]+)- = +(1e[+-]?\d+) += ([A-Za-z]+)-", line)
        if prefix:
            yield Fact("prefix", prefix[1], prefix[2], True)
            yield Fact("prefix_symbol", prefix[1], prefix[3], True)
    for line in archive.text("pint/constants_en.txt").split("\n"):
        match = re.match(r"([a-z_]{5,}) = ([0-9.e+-]+) ?\*? ?([A-Za-z/^0-9*() -]*?)(?: +=.*| *#.*)?$", line)
        if match:
            yield Fact("constant", _spaced(match[1]), f"{match[2]} {match[3]}".strip())


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _zones(archive: Archive) -> Iterator[Fact]:
    lines = archive.text("tzdata/zoneinfo/iso3166.tab").split("\n")
    names = dict(line.split("\t") for line in lines if line and not line.startswith("#"))
    zones: dict[str, list[str]] = {}
    for line in archive.text("tzdata/zoneinfo/zone.tab").split("\n"):
        if line and not line.startswith("#"):
            code, _, zone = line.split("\t")[:3]
            zones.setdefault(code, []).append(zone)
            yield Fact("zone_country", zone, names[code])
    for code, zones_of_country in zones.items():
        yield Fact("num_zones", names[code], str(len(zones_of_country)))
        yield Fact("zone", names[code], zones_of_country[0])


_TABLES = (
    (_countries, "countryinfo"),
    (_states, "us"),
    (_cities, "astral"),
    (_airports, "airportsdata"),
    (_languages, "iso639-lang"),
    (_currencies, "faker"),
    (_colors, "webcolors"),
    (_statuses, "werkzeug"),
    (_elements, "mendeleev"),
    (_units, "pint"),
    (_zones, "tzdata"),
)
