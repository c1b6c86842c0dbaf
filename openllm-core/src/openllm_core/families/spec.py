"""FamilySpec: the facts of one model family, read from a TOML file.

Made by `registry.py`, read by the store, the service and the command line. A family file holds facts, each with a
source; it runs nothing and allows nothing (`trust_remote_code` here says what the models need, never that they get it).
"""

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from ..config.generation import GenerationConfig, SamplingConfig
from ..errors import ConfigError, InvalidRequest
from ..prompts import PromptTemplate
from ..serde import field, structure

ModelType = Literal["causal_lm", "seq2seq_lm"]


@attrs.frozen(kw_only=True)
class OwnField:
    """A configuration field that only this family has."""

    type: Literal["bool", "int", "float", "str"] = field(help="Type of its value.")
    default: bool | int | float | str = field(help="Value when nothing says otherwise.")
    choices: list[str] | None = field(default=None, help="Allowed values.")
    help: str = field(default="", help="One line.")


@attrs.frozen(kw_only=True)
class FillIn:
    """How a model is asked to fill in the middle of a text."""

    marker: str = field(min_length=1, help="What stands in the prompt for the gap.")
    text: str = field(help="Prompt with {before} and {after}.")


@attrs.frozen(kw_only=True)
class History:
    """How a conversation becomes a prompt."""

    turn: str = field(help="A past turn, with {round}, {question} and {answer}.")
    last: str = field(help="The new one, with {round} and {instruction}.")


@attrs.frozen(kw_only=True)
class PromptFacts:
    """How a raw instruction becomes a prompt where the model has no chat template."""

    on_by_default: bool = field(default=False, help="Whether the template applies when the caller does not say.")
    default_format: str = field(default="default", help="Format used when none is named.")
    must_name_format: bool = field(default=False, help="Whether the command line asks for a format.")
    formats: dict[str, str] = field(default=attrs.Factory(dict[str, str]), help="Format -> text with {instruction}.")
    variables: dict[str, str] = field(default=attrs.Factory(dict[str, str]), help="Values of other variables.")
    chat_variables: dict[str, str] = field(
        default=attrs.Factory(dict[str, str]), help="Values of variables where the template makes up a conversation."
    )
    format_by_field: dict[str, dict[str, str]] = field(
        default=attrs.Factory(dict[str, dict[str, str]]), help="Own field -> its value -> format."
    )
    format_by_id: dict[str, str] = field(
        default=attrs.Factory(dict[str, str]), help="Part of a model id -> format; the first that fits counts."
    )
    only_ids_with: str = field(default="", help="Part of a model id without which the template does not apply.")
    fill_in: FillIn | None = field(default=None, help="How a gap in the prompt is filled in.")
    history: History | None = field(default=None, help="How past turns stand in the prompt.")


@attrs.frozen(kw_only=True)
class FamilySpec:
    """Everything known of one family.

    Attributes:
        name: kebab case, as typed (`flan-t5`).
        compat_family: the family of 0.3.5 that clients of 0.3.5 are told; itself for those eleven.
        architectures: `architectures` of the config.json of its models.
        default_for: architectures that mean this family when nothing else is known of a model.
        default_id: hub id used when none is given.
        generation, sampling: defaults that differ from GenerationConfig's and SamplingConfig's.
        own_fields: fields only this family has.
        requirements: extra packages its models need.
        trust_remote_code: whether its models bring Python code of their own.
        replaced_code: `model_type` of those whose code transformers has classes of its own for; they need no trust.
        tool_format: how its models write tool calls, by its name in `openllm.tools`; None where they do in no way of theirs.
        reasoning: how they mark their reasoning, by its name there; None where they do not.
        response_style: what clients of 0.3.5 expect an element of `responses` to be.
        backends: those that run it.
        fine_tune: adapter type -> default adapter settings.
        sources: path of a fact -> where it is from; "*" for the rest.
    """

    name: str = field(min_length=1)
    compat_family: str = field(min_length=1)
    architectures: list[str] = field(min_length=1)
    default_id: str = field(min_length=1)
    model_ids: list[str] = field(min_length=1)
    sources: dict[str, str] = field(min_length=1)
    default_for: list[str] = field(default=attrs.Factory(list[str]))
    model_type: ModelType = field(default="causal_lm")
    config_class: str = field(default="")
    url: str = field(default="")
    backends: list[str] = field(default=attrs.Factory(lambda: ["pt", "vllm"]))
    requirements: list[str] = field(default=attrs.Factory(list[str]))
    trust_remote_code: bool = field(default=False)
    replaced_code: list[str] = field(default=attrs.Factory(list[str]))
    tokenizer_class: str | None = field(default=None)
    name_type: Literal["dasherize", "lowercase"] = field(default="dasherize")
    timeout: int = field(default=36_000_000, ge=1, help="Seconds 0.3.5 let a request run.")
    tool_format: str | None = field(default=None)
    reasoning: str | None = field(default=None)
    response_style: Literal["text", "generated_text", "text_and_history"] = field(default="text")
    generation: dict[str, Any] = field(default=attrs.Factory(dict[str, Any]))
    sampling: dict[str, Any] = field(default=attrs.Factory(dict[str, Any]))
    own_fields: dict[str, OwnField] = field(default=attrs.Factory(dict[str, OwnField]))
    prompt: PromptFacts = field(default=attrs.Factory(PromptFacts))
    fine_tune: dict[str, dict[str, Any]] = field(default=attrs.Factory(dict[str, dict[str, Any]]))

    @property
    def model_name(self) -> str:
        """The name in snake case, as it stands on the wire."""
        return self.name.replace("-", "_")

    @property
    def needs_trust(self) -> bool:
        """Whether its models run only with the code they bring."""
        return self.trust_remote_code and not self.replaced_code

    @property
    def prompt_template(self) -> PromptTemplate | None:
        """Template of the default format; None when the family has none."""
        return self.prompt_format(self.prompt.default_format) if self.prompt.formats else None

    @property
    def start_docstring(self) -> str:
        """Help of `openllm start` for this family: how it is started, which model by default, and which it knows."""
        notes = [f"Also install: {', '.join(self.requirements)}."] if self.requirements else []
        notes += ["Its models bring code of their own: add --trust-remote-code."] if self.needs_trust else []
        ids = "\n".join(f"  {model_id}" for model_id in self.model_ids)
        return "\n".join(
            [
                f"Serve a {self.name} model over HTTP: openllm start {self.name} --model-id ID",
                "",
                f"Without --model-id it is {self.default_id}. Known ids:",
                ids,
                *notes,
            ]
        )

    @property
    def chat_template(self) -> PromptTemplate | None:
        """The same for a conversation, in which nobody gives its variables; None where one of them has no value."""
        template = self.prompt_template
        if template is None:
            return None
        template = PromptTemplate(template.text, {**template.defaults, **self.prompt.chat_variables})
        return None if template.required else template

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end the text of its models, besides those that a model's own files name."""
        ids: int | list[int] | None = self.generation.get("eos_token_id")
        return frozenset([ids] if isinstance(ids, int) else ids or ())

    def prompt_format(self, name: str) -> PromptTemplate:
        """Template of a named format.

        Raises:
            InvalidRequest: no such format; names those there are.
        """
        text = self.prompt.formats.get(name)
        if text is None:
            known = ", ".join(self.prompt.formats) or "none"
            raise InvalidRequest(f"{self.name} has no prompt format {name[:80]!r}; it has: {known}.", param="format")
        return PromptTemplate(text, dict(self.prompt.variables))

    def source_of(self, path: str) -> str:
        """Where a fact is from, by its dotted path (`generation.top_p`): its own source, else its table's, else "*"."""
        while path:
            if path in self.sources:
                return self.sources[path]
            path = path.rpartition(".")[0]
        return self.sources.get("*", "unverified")

    @property
    def verified(self) -> bool:
        """Whether every fact has a checked source."""
        return not any(source.startswith("unverified") for source in self.sources.values())


def from_toml(text: str, origin: str) -> FamilySpec:
    """Read a family file.

    Args:
        origin: path or name, for messages.

    Raises:
        ConfigError: not TOML, or a fact is missing, unknown or of a wrong type; names origin and fact.
    """
    import tomllib  # only whoever reads a file needs it

    try:
        return from_data(tomllib.loads(text), origin)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: {error}.") from None


def from_data(data: Mapping[str, Any], origin: str) -> FamilySpec:
    """The same from plain data.

    Raises:
        ConfigError: see `from_toml`.
    """
    try:
        spec = structure(dict(data), FamilySpec)
        structure(spec.generation, GenerationConfig)
        structure(spec.sampling, SamplingConfig)
    except InvalidRequest as error:
        raise ConfigError(f"{origin}: {error.message}", param=error.param) from None
    if spec.default_id not in spec.model_ids:
        raise ConfigError(f"{origin}: default_id {spec.default_id!r} is not among model_ids.", param="default_id")
    missing = [name for name in spec.default_for if name not in spec.architectures]
    if missing:
        raise ConfigError(f"{origin}: {missing[0]} of default_for is not among architectures.", param="default_for")
    return spec
