"""Which request fields a backend honours, and how requests become SamplingParams by that table."""

from __future__ import annotations

from .requests import openai_defaults, sampling_from_openai, to_sampling_params
from .table import COLUMNS, FIELDS, FieldFact, Support, can_do, column_of, refuse, settle

__all__ = [
    "COLUMNS",
    "FIELDS",
    "FieldFact",
    "Support",
    "can_do",
    "column_of",
    "openai_defaults",
    "refuse",
    "sampling_from_openai",
    "settle",
    "to_sampling_params",
]
