"""Guide: what the text of an answer must be, as one of six kinds; part of SamplingParams.

Made by `fields.guides` from any wire form; a backend that can guide compiles it. Knows nothing of how that is done.
"""

from __future__ import annotations

from typing import Literal

import attrs

GuideKind = Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]


@attrs.frozen
class Guide:
    """One constraint on the text.

    Attributes:
        kind: what `value` is; `json_object` is any JSON object and has none.
        value: a JSON schema as JSON text, a regular expression, a grammar in EBNF, the texts to choose from, or a
            structural tag of xgrammar's as JSON text, which no request sends: it is how a tool call is asked for.
        param: the request's field, for messages; not part of what the guide is.
    """

    kind: GuideKind
    value: str | tuple[str, ...] = ""
    param: str = attrs.field(default="response_format", eq=False)
