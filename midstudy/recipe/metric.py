"""A metric of an evaluation: the name, unit and better direction of a number that it reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that an evaluation reports. `better` is `lower` or `higher`; an `is_extra` metric must be requested."""

    name: str
    unit: str
    better: str
    is_extra: bool = False
