"""Every limit a server would refuse by, with its value and where the value comes from.

Settings come with their source (typed, variable, file, default); what cannot be set is built in.
"""

from __future__ import annotations

from collections.abc import Iterator

from openllm_core.options import EngineOptions, ServerOptions
from openllm_core.settings import flag_of, settings_of

from .finding import Finding, Situation

OF_THE_ENGINE = ("max_model_len", "max_num_seqs", "threads", "dtype", "device", "engines", "restarts", "drain_grace")
WHEN_UNSET = {
    "max_model_len": "the model's",
    "max_num_seqs": "the backend's",
    "max_queue": "2 x slots, at least 16",
    "threads": "measured",
}
UNITS = {"S": " s", "BYTES": " bytes", "CHARS": " characters"}


def limits(situation: Situation) -> Iterator[Finding]:
    """One line per limit."""
    from openllm.server import limits as of_a_connection
    from openllm.service import requests as of_a_request  # with the schema, more than a start's checks need

    for options, cls in ((situation.engine, EngineOptions), (situation.server, ServerOptions)):
        for name, (_, fact) in settings_of(cls).items():
            if fact.group != "Limits" and name not in OF_THE_ENGINE:
                continue
            value = getattr(options, name)
            source = situation.sources.get(name, "default")
            shown = WHEN_UNSET.get(name, "none") if value is None else value
            where = {"explicit": flag_of(name, fact) or "typed", "environment": fact.env or ""}.get(source, source)
            yield Finding(
                "limit", "ok", f"{name} = {shown}  ({where})", data={"name": name, "value": value, "source": source}
            )
    for name, value in (vars(of_a_connection) | vars(of_a_request)).items():
        if name.isupper() and isinstance(value, (int, float)):
            unit = next((text for end, text in UNITS.items() if name.endswith("_" + end)), "")
            data = {"name": name.lower(), "value": value, "source": "built in"}
            yield Finding("limit", "ok", f"{name.lower()} = {value:,}{unit}  (built in)", data=data)
