"""Which request field each backend honours: one table, read by requests, by the start line and by the tests.

HONOURED: it changes the output as its name says. NEUTRAL: the backend cannot do it, so only the value that asks for
nothing is accepted. NEVER: it has no such value, so it must be absent or null. `requests.py` turns requests into
SamplingParams by this table; nothing else decides what is refused.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

from ..config.generation import GENERATION_FIELDS, SAMPLING_FIELDS
from ..config.llm import LLMConfig
from ..errors import UnsupportedFeature
from ..families.spec import FamilySpec

Support = Literal["honoured", "neutral", "never"]

HONOURED: Support = "honoured"
NEUTRAL: Support = "neutral"
NEVER: Support = "never"

COLUMNS = ("pt", "vllm", "echo", "seq2seq")
"""`seq2seq` is the pt backend with an encoder-decoder model; a backend of another package counts as `pt`."""

_ANY: tuple[Any, ...] = ()


@attrs.frozen
class FieldFact:
    """One row.

    Attributes:
        name: as sent.
        support: what every column does, save those in `except_for`.
        neutral: values that ask for nothing; empty with NEUTRAL means that any value does.
        except_for: column -> support, where it differs.
        instead: what to use where it is refused.
    """

    name: str
    support: Support
    neutral: tuple[Any, ...] = _ANY
    except_for: dict[str, Support] = attrs.Factory(dict[str, Support])
    instead: str | None = None

    def supported(self, column: str) -> Support:
        """What one column does with the field."""
        return self.except_for.get(column, self.support)

    def asks_for_nothing(self, value: Any) -> bool:
        """Whether a value changes nothing, so that it can be accepted by a backend that cannot do the field."""
        if value is None:
            return True
        if self.support == NEVER:
            return False
        return not self.neutral or any(
            value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.neutral
        )


_GUIDED: dict[str, Support] = {"pt": HONOURED, "vllm": HONOURED}
_FORMED: dict[str, Support] = {**_GUIDED, "echo": HONOURED}
_GUIDES = "The pt backend can with a decoder-only model, and vllm (openllm start --backend vllm)."
_BEAMS = "Beam search is not offered; n samples several answers."

_ROWS = (
    # generation fields of 0.3.5, in its order
    FieldFact("max_new_tokens", HONOURED),
    FieldFact("min_length", NEUTRAL, (0,), {"seq2seq": HONOURED}, "min_new_tokens counts generated tokens."),
    FieldFact("min_new_tokens", HONOURED),
    FieldFact("early_stopping", NEUTRAL, (False,), instead=_BEAMS),
    FieldFact("max_time", NEVER, instead="The server's deadline ends a request; max_new_tokens bounds it."),
    FieldFact("num_beams", NEUTRAL, (1,), instead=_BEAMS),
    FieldFact("num_beam_groups", NEUTRAL, (1,), instead=_BEAMS),
    FieldFact("penalty_alpha", NEUTRAL, (0,)),
    FieldFact("use_cache", NEUTRAL, (True,)),
    FieldFact("temperature", HONOURED),
    FieldFact("top_k", HONOURED),
    FieldFact("top_p", HONOURED),
    FieldFact("typical_p", NEUTRAL, (1,), instead="top_p or min_p."),
    FieldFact("epsilon_cutoff", NEUTRAL, (0,), instead="min_p."),
    FieldFact("eta_cutoff", NEUTRAL, (0,), instead="min_p."),
    FieldFact("diversity_penalty", NEUTRAL, (0,), instead=_BEAMS),
    FieldFact("repetition_penalty", HONOURED),
    FieldFact("encoder_repetition_penalty", NEUTRAL, (1,), instead="repetition_penalty."),
    FieldFact("length_penalty", NEUTRAL, (1,), instead=_BEAMS),
    FieldFact("no_repeat_ngram_size", NEUTRAL, (0,), instead="repetition_penalty or frequency_penalty."),
    FieldFact("bad_words_ids", NEUTRAL, ([],), instead="suppress_tokens forbids single tokens."),
    FieldFact("force_words_ids", NEUTRAL, ([],)),
    FieldFact("renormalize_logits", NEUTRAL, (False,)),
    FieldFact("constraints", NEUTRAL, ([],)),
    FieldFact("forced_bos_token_id", NEVER),
    FieldFact("forced_eos_token_id", NEVER),
    FieldFact("remove_invalid_values", NEUTRAL, (False,)),
    FieldFact("exponential_decay_length_penalty", NEVER),
    FieldFact("suppress_tokens", HONOURED),
    FieldFact("begin_suppress_tokens", NEUTRAL, ([],), instead="suppress_tokens."),
    FieldFact("forced_decoder_ids", NEUTRAL, ([],)),
    FieldFact("num_return_sequences", HONOURED),
    FieldFact("output_attentions", NEUTRAL, (False,)),
    FieldFact("output_hidden_states", NEUTRAL, (False,)),
    FieldFact("output_scores", NEUTRAL, (False,), instead="logprobs."),
    FieldFact("pad_token_id", NEUTRAL),  # padding never reaches an answer
    FieldFact("bos_token_id", NEVER),
    FieldFact("eos_token_id", HONOURED),
    FieldFact("encoder_no_repeat_ngram_size", NEUTRAL, (0,)),
    FieldFact("decoder_start_token_id", NEVER),
    # sampling fields of 0.3.5
    FieldFact("n", HONOURED),
    FieldFact("best_of", HONOURED),  # where it equals n; more is refused by the one place that knows n
    FieldFact("presence_penalty", HONOURED),
    FieldFact("frequency_penalty", HONOURED),
    FieldFact("use_beam_search", NEUTRAL, (False,), instead=_BEAMS),
    FieldFact("stop", HONOURED),
    FieldFact("ignore_eos", HONOURED),
    FieldFact("logprobs", HONOURED),
    # ours
    FieldFact("max_tokens", HONOURED),
    FieldFact("min_tokens", HONOURED),
    FieldFact("seed", HONOURED),
    FieldFact("min_p", HONOURED),
    FieldFact("logit_bias", HONOURED),
    FieldFact("stop_token_ids", HONOURED),
    FieldFact("response_format", NEUTRAL, ({"type": "text"},), _FORMED, _GUIDES),
    FieldFact("guided_json", NEVER, _ANY, _FORMED, _GUIDES),
    FieldFact("guided_regex", NEVER, _ANY, _GUIDED, _GUIDES),
    FieldFact("guided_choice", NEUTRAL, ([],), _FORMED, _GUIDES),
    FieldFact("guided_grammar", NEVER, _ANY, _GUIDED, _GUIDES),
    FieldFact("structured_outputs", NEUTRAL, ({},), _FORMED, _GUIDES),
)

FIELDS: dict[str, FieldFact] = {row.name: row for row in _ROWS}


def column_of(backend: str, family: FamilySpec | None = None) -> str:
    """Column of the table for a backend and the kind of model it runs."""
    if family is not None and family.model_type == "seq2seq_lm":
        return "seq2seq"
    return backend if backend in COLUMNS else "pt"


def can_do(name: str, value: Any, column: str) -> bool:
    """Whether a backend does what a value asks for, or the value asks for nothing."""
    fact = FIELDS[name]
    return fact.supported(column) == HONOURED or fact.asks_for_nothing(value)


def refuse(name: str, value: Any, column: str, param: str) -> None:
    """Refuse a value that the backend cannot do.

    Args:
        param: the field's path, for the message.

    Raises:
        UnsupportedFeature: names the values that are accepted, and what to use instead.
    """
    if can_do(name, value, column):
        return
    fact = FIELDS[name]
    accepted = " or ".join(_shown(v) for v in fact.neutral) if fact.neutral else "null"
    raise UnsupportedFeature(
        f"{param}: this backend cannot do {name}; only {accepted} is accepted.", hint=fact.instead, param=param
    )


def _shown(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def settle(config: LLMConfig, backend: str) -> tuple[LLMConfig, list[str]]:
    """Defaults a backend will really use: values of the family that it cannot do are put back to neutral.

    Returns:
        The configuration, and one line per value that is ignored, for the start of the server.

    Raises:
        UnsupportedFeature: the operator, not the family, asked for what the backend cannot do.
    """
    column = column_of(backend, config.family)
    changed: dict[str, Any] = {}
    lines: list[str] = []
    for name in (*GENERATION_FIELDS, *SAMPLING_FIELDS):
        fact, value = FIELDS[name], config.flat()[name]
        if can_do(name, value, column):
            continue
        if config.sources.get(name) in ("explicit", "environment"):
            refuse(name, value, column, name)
        changed[name] = fact.neutral[0] if fact.neutral else None
        lines.append(f"ignored: {name} = {_shown(value)} of family {config.family.name}; {backend} cannot do it")
    if not changed:
        return config, []
    settled = config.with_values(changed)
    settled.sources.update(dict.fromkeys(changed, "family"))
    return settled, lines
