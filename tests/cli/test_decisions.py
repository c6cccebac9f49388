"""What the commands, MLflow and the report say of a choice."""

from __future__ import annotations
