"""Prompt templates for models without a chat template: `{name}` fields, `{instruction}` always among them.

Used by `/v1/generate`'s clients, `openllm get-prompt` and the service where a model has no chat template. Substitution
only: no attribute access, no format specification, so a prompt or a variable can hold any text, braces included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs

from .errors import InvalidRequest

if TYPE_CHECKING:
    from .families.spec import FamilySpec

_FIELD = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_INSTRUCTION = "instruction"


@attrs.frozen
class PromptTemplate:
    """Text with `{name}` fields.

    Attributes:
        text: the template.
        defaults: values of fields other than `instruction`.
    """

    text: str
    defaults: Mapping[str, str] = attrs.Factory(dict[str, str])

    @property
    def variables(self) -> list[str]:
        """Names of the fields, in order of first appearance."""
        return list(dict.fromkeys(_FIELD.findall(self.text)))

    @property
    def required(self) -> list[str]:
        """Fields a caller must give besides the instruction."""
        return [name for name in self.variables if name != _INSTRUCTION and name not in self.defaults]

    def render(self, instruction: str, variables: Mapping[str, str] | None = None) -> str:
        """Fill in the fields; variables the template has no field for are ignored.

        Raises:
            InvalidRequest: a field has no value, or a variable is called `instruction`.
        """
        given = dict(variables or {})
        if _INSTRUCTION in given:
            raise InvalidRequest("The variable 'instruction' is the prompt itself.", param=_INSTRUCTION)
        missing = [name for name in self.required if name not in given]
        if missing:
            raise InvalidRequest(
                f"The prompt template needs {', '.join(self.required)}; missing: {', '.join(missing)}.",
                code="missing_required_parameter",
                param=missing[0],
            )
        values = {**self.defaults, **given, _INSTRUCTION: instruction}
        return _FIELD.sub(lambda found: str(values[found[1]]), self.text)


def process_prompt(
    prompt: str,
    template: PromptTemplate | str | Callable[[str], str] | None = None,
    use_prompt_template: bool = True,
    **variables: str,
) -> str:
    """Put a prompt into a template.

    Args:
        template: a template, its text, or a function of the prompt.
        use_prompt_template: False returns the prompt unchanged.
        variables: values of the template's other fields.

    Raises:
        ValueError: a template is asked for but there is none.
        InvalidRequest: see `PromptTemplate.render`.
    """
    if not use_prompt_template:
        return prompt
    if template is None:
        raise ValueError("use_prompt_template is set, but there is no template.")
    if isinstance(template, str):
        template = PromptTemplate(template)
    if isinstance(template, PromptTemplate):
        return template.render(prompt, variables)
    return template(prompt)


# -- the prompt of a family ---------------------------------------------------------------------------------------


def prompt_of(
    family: FamilySpec, prompt: str, values: Mapping[str, Any] | None = None, *, own: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Make of an instruction what a family's models expect.

    Args:
        values: `use_default_prompt_template` (default: as the family does), `prompt_format`, `model_id`,
            `chat_history` (pairs of question and answer), own fields that choose a format (`prompt_type`,
            `use_llama2_prompt`), variables of the template; the rest is passed through.
        own: own fields of the configuration.

    Returns:
        The prompt, and the values that were not used up.

    Raises:
        InvalidRequest: a variable is missing, a format unknown, or a prompt has two gaps to fill.
    """
    left = dict(values or {})
    facts = family.prompt
    if facts.fill_in is not None:
        prompt = _filled(prompt, facts.fill_in.marker, facts.fill_in.text)
    model_id = left.pop("model_id", None) or family.default_id
    form = left.pop("prompt_format", None) or format_of(family, model_id=model_id, values=left, own=own)
    for name in facts.format_by_field:
        left.pop(name, None)
    wanted = left.pop("use_default_prompt_template", None)
    if not (facts.on_by_default if wanted is None else wanted) or facts.only_ids_with not in model_id:
        return prompt, left
    if facts.history is not None and left.get("chat_history"):
        return _with_history(prompt, left["chat_history"], facts.history.turn, facts.history.last), left
    if not facts.formats:
        return prompt, left
    template = family.prompt_format(form)
    variables = {name: str(left.pop(name)) for name in template.variables if name in left}
    return template.render(prompt, variables), left


def format_of(
    family: FamilySpec,
    *,
    model_id: str | None = None,
    values: Mapping[str, Any] | None = None,
    own: Mapping[str, Any] | None = None,
) -> str:
    """Name of the prompt format that applies: the caller's choice, else by the model's id, else the family's default.

    Args:
        values: what the caller said; own fields count where they name a format.
        own: own fields of the configuration; those that differ from their default count as said.
    """
    facts = family.prompt
    for name, formats in facts.format_by_field.items():
        chosen = (values or {}).get(name)
        declared = family.own_fields.get(name)
        if chosen is None and declared is not None and own is not None and own.get(name) != declared.default:
            chosen = own.get(name)
        if chosen is not None and str(chosen).lower() in formats:
            return formats[str(chosen).lower()]
    found = (form for part, form in facts.format_by_id.items() if part in (model_id or "").lower())
    return next(found, facts.default_format)


def _filled(prompt: str, marker: str, text: str) -> str:
    parts = prompt.split(marker)
    if len(parts) == 1:
        return prompt
    if len(parts) > 2:
        raise InvalidRequest(f"The prompt has {marker} {len(parts) - 1} times; it can have it once.", param="prompt")
    return _FIELD.sub(lambda found: {"before": parts[0], "after": parts[1]}[found[1]], text)


def _with_history(prompt: str, history: Sequence[Sequence[str]], turn: str, last: str) -> str:
    rounds = [
        _FIELD.sub(lambda found, r=number, p=pair: str({"round": r, "question": p[0], "answer": p[1]}[found[1]]), turn)
        for number, pair in enumerate(history)
    ]
    here = {"round": str(len(rounds)), _INSTRUCTION: prompt}
    return "".join(rounds) + _FIELD.sub(lambda found: here[found[1]], last)


def answer_of(
    family: FamilySpec,
    result: Any,
    *,
    own: Mapping[str, Any],
    prompt: str = "",
    chat_history: list[tuple[str, str]] | None = None,
) -> Any:
    """What callers of 0.3.5 expect an answer to be.

    Args:
        result: texts, or the shape of the family's `response_style`.
        own: own fields of the configuration.
        chat_history: extended in place where the family retains it.

    Raises:
        ValueError: `retain_history` without a history.
    """
    if not isinstance(result, (list, tuple)) or not result:
        return cast("Any", result)
    texts = cast("Sequence[Any]", result)
    if family.response_style == "text_and_history":
        if own.get("retain_history"):
            if chat_history is None:
                raise ValueError("retain_history is set, but no chat_history was given.")
            chat_history.append((prompt, texts[0]))
        return texts[0]
    if family.response_style == "generated_text" and isinstance(texts[0], Mapping):
        return cast("Mapping[str, Any]", texts[0])["generated_text"]
    if "format_outputs" not in own or len(texts) == 1:
        return texts[0]
    if own["format_outputs"]:
        return "Generated result:\n" + "\n".join(f"- {text}" for text in texts)
    return "\n".join(map(str, texts))
