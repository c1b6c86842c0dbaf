"""The checks of a start, made without loading: `openllm doctor`, and what `openllm start` does first.

`CHECKS` is the whole list, in the order of the report. A new check is a function from a `Situation` to findings and its
name in that list; raising one of our errors makes a red line with the error's own hint. Loads, fetches and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from openllm_core.errors import OpenLLMError

from .embeddings import embeddings
from .finding import CONFIGURATION, RESOURCES, Check, Finding, Situation, red
from .installation import backend, bad_pairs, others_versions, versions
from .limits import limits
from .machine import devices, memory, open_files, port, store
from .model import code, model, tokenizer
from .unsafe import relaxed, unsafe

__all__ = [
    "BEFORE_LOADING",
    "BEFORE_THE_MODEL",
    "CHECKS",
    "Check",
    "Finding",
    "Situation",
    "examine",
    "exit_code",
    "reds",
    "relaxed",
]

BEFORE_THE_MODEL: tuple[Check, ...] = (versions, bad_pairs, devices, open_files, port)
"""What a start checks before it looks for the model."""
BEFORE_LOADING: tuple[Check, ...] = (backend, memory)
"""What a start checks once it has found the model, which it does as the checks between these two do."""
CHECKS: tuple[Check, ...] = (
    *BEFORE_THE_MODEL,
    others_versions,
    store,
    model,  # finds it for those behind
    code,
    tokenizer,
    *BEFORE_LOADING,
    embeddings,
    unsafe,
    limits,
)


def examine(situation: Situation, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Make the checks; each goes on whatever the others found."""
    findings: list[Finding] = []
    for check in checks:
        try:
            findings.extend(check(situation))
        except OpenLLMError as error:
            findings.append(red(check.__name__.replace("_", " "), error))
    return findings


def reds(findings: Sequence[Finding]) -> list[Finding]:
    """Those that stop a start."""
    return [finding for finding in findings if finding.level == "red"]


def exit_code(findings: Sequence[Finding]) -> int:
    """0 without a red line; 71 when only the machine lacks something, else 78."""
    codes = {finding.exit_code for finding in reds(findings)}
    if not codes:
        return 0
    return RESOURCES if codes == {RESOURCES} else CONFIGURATION
