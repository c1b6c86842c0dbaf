"""Prompt templates for models without a chat template: `{name}` fields, `{instruction}` always among them.

Used by `/v1/generate`'s clients, `openllm get-prompt` and the service where a model has no chat template. Substitution
only: no attribute access, no format specification, so a prompt or a variable can hold any text, braces included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import attrs

from .errors import InvalidRequest

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
