"""JSON <-> attrs values, strict by type and range, with errors that name the path (`messages[0].role`).

Called by the server for every request body, by the client for every answer, and by whoever makes the OpenAPI document.
Types come from annotations, ranges from `field(...)`; nothing is coerced: no bool for an int, no text for a number (an
int does stand in for a float). A message never carries more than 200 characters of what was received.
"""

from __future__ import annotations

from .reading import check, structure, structure_value
from .rule import Rule, field, rule_of
from .schema import json_schema
from .text import MAX_DEPTH, loads
from .writing import dumps, unstructure

__all__ = [
    "MAX_DEPTH",
    "Rule",
    "check",
    "dumps",
    "field",
    "json_schema",
    "loads",
    "rule_of",
    "structure",
    "structure_value",
    "unstructure",
]
