"""Generation fields as flags of `start` (`--temperature 0.2`) and as keys of its configuration file.

`StartCommand` makes options of what `LLMConfig.to_click_options` says, but only when a word of the command line needs
them: a plain start does not pay for them. `configure` makes the server's defaults of what was given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from openllm.cli.command import Command, GroupedOption, normalise, section_heading
from openllm_core.errors import InvalidRequest, InvalidSetting, OpenLLMError
from openllm_core.families import registry
from openllm_core.families.spec import FamilySpec

if TYPE_CHECKING:
    from openllm.serialisation.bento_record import BuiltBento
    from openllm_core.config.click_options import ClickOption
    from openllm_core.config.llm import LLMConfig

HELP = {"-h", "--help"}
FAMILY, OFFERED, FIELDS = "openllm.family", "openllm.offered", "openllm.fields"  # keys of click's ctx.meta
BENTO = "openllm.bento"


class FieldOption(GroupedOption):
    """The option of one field.

    Attributes:
        field: name of the field in the configuration.
        json: whether its value is JSON text.
    """

    def __init__(self, *args: Any, field: str, json: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.field = field
        self.json = json


class StartCommand(Command):
    """A command whose MODEL decides which flags it has; its help then shows the family's ids, fields and defaults."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for a family among the words, and for flags that only fields can be."""
        ctx.meta[FAMILY] = next((spec for word in args if word[:1] != "-" and (spec := registry.get(word))), None)
        words = {normalise(word.partition("=")[0]) for word in args}
        known = {opt for param in self.params for opt in (*param.opts, *param.secondary_opts)} | HELP
        ctx.meta[OFFERED] = any(word.startswith("--") and word not in known for word in words)
        ctx.meta[OFFERED] |= ctx.meta[FAMILY] is not None and bool(words & HELP)
        if words & HELP and ctx.meta[FAMILY] is None:
            self._look_for_bento(ctx, args)
        return super().parse_args(ctx, args)

    def _look_for_bento(self, ctx: click.Context, args: list[str]) -> None:
        from openllm.cli.bento import named_in

        if (bento := named_in(args)) is not None:
            ctx.meta[BENTO] = bento
            ctx.meta[FAMILY] = registry.get(bento.record.family) if bento.record.family else None
            ctx.meta[OFFERED] = True

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own options, and those of the fields where they are wanted."""
        params = super().get_params(ctx)
        if not (ctx.meta.get(OFFERED) or ctx.resilient_parsing):
            return params
        if FIELDS not in ctx.meta:
            ctx.meta[FIELDS] = field_options(ctx.meta.get(FAMILY))
        return [*params, *ctx.meta[FIELDS]]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The family's ids below the text."""
        super().format_help_text(ctx, formatter)
        family: FamilySpec | None = ctx.meta.get(FAMILY)
        if BENTO in ctx.meta:
            describe_bento(ctx.meta[BENTO], formatter)
        elif family is not None:
            with formatter.section(section_heading(f"Official ids of {family.name}, for --model-id")):
                for model_id in family.model_ids:
                    default = "  (default)" if model_id == family.default_id else ""
                    formatter.write(f"{'':>{formatter.current_indent}}{model_id}{default}\n")


def describe_bento(bento: BuiltBento, formatter: click.HelpFormatter) -> None:
    """What a Bento serves and with what, on the help page."""
    record = bento.record
    rows = [("model", f"{record.model_id} ({record.model})")]
    rows += [(name.replace("_", "-"), _shown(value)) for name, value in {**record.settings, **record.fields}.items()]
    rows += [("adapter", adapter.name) for adapter in record.adapters]
    with formatter.section(section_heading(f"The Bento {bento.tag}, which flags and variables win over")):
        formatter.write_dl(rows)


def field_options(family: FamilySpec | None) -> list[FieldOption]:
    """Options of generation, sampling and own fields.

    Args:
        family: whose defaults and own fields; without one, the own fields of all, since the model is yet to be found.
    """
    from openllm_core.config.llm import LLMConfig

    specs = [family] if family is not None else [registry.default(), *registry.all()]
    made: dict[str, FieldOption] = {}
    for spec in specs:
        for option in LLMConfig.for_model(spec, environ={}).to_click_options():
            if option.field not in made:
                made[option.field] = _click_option(option, with_default=family is not None)
    return list(made.values())


def _click_option(option: ClickOption, *, with_default: bool) -> FieldOption:
    types: dict[str, Any] = {"int": click.INT, "float": click.FLOAT, "bool": click.BOOL}
    facts: dict[str, Any] = {"default": None, "group": option.group}
    if option.is_flag:
        facts["is_flag"] = True
    else:
        facts["type"] = click.Choice(option.choices) if option.choices else types.get(option.type, click.STRING)
        facts |= {"multiple": option.multiple, "nargs": option.nargs}
        word = {"int": "N", "float": "N", "json": "JSON"}.get(option.type, "TEXT")
        facts["metavar"] = None if option.choices else " ".join([word] * option.nargs)
    notes = [f"env: {option.env}"]
    if with_default and option.default is not None:
        notes.append(f"default: {_shown(option.default)}")
    help = f"{option.help}  [{'; '.join(notes)}]".strip()
    return FieldOption([option.flag, option.name], field=option.field, json=option.type == "json", help=help, **facts)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def typed_fields(ctx: click.Context, typed: dict[str, Any]) -> dict[str, Any]:
    """Take the fields out of a command's arguments.

    Returns:
        Field -> value of those that were typed.

    Raises:
        click.UsageError: a value that must be JSON is not.
    """
    found: dict[str, Any] = {}
    for option in ctx.meta.get(FIELDS, ()):
        value = typed.pop(option.name, None)
        if value is None or value == ():
            continue
        if option.json:
            try:
                value = json.loads(value)
            except ValueError:
                raise click.UsageError(f"{option.opts[0]}: {value[:200]!r} is not JSON.", ctx) from None
        elif option.nargs > 1:
            value = [int(part) if float(part).is_integer() else part for part in value]
        found[option.field] = list(value) if option.multiple else value
    return found


def configure(name: str | None, typed: Mapping[str, Any], file: Mapping[str, Any]) -> LLMConfig:
    """The server's generation defaults: typed > environment > file > family.

    Args:
        name: of the model's family; None when it is of no known one.
        typed, file: field -> value.

    Raises:
        InvalidSetting: a value does not fit, or the field is another family's; names flag, variable or key.
    """
    from openllm.compose import defaults_of, unknown_family
    from openllm_core.config.llm import LLMConfig

    family = registry.find(name) if name else unknown_family()
    for values, origin in ((typed, flag), (file, key)):
        try:
            made = LLMConfig.for_model(family, environ={}, **values)
        except OpenLLMError as error:
            raise named(error, values, origin) from None
        for field in values:
            if field in made.extras:
                of = ", ".join(spec.name for spec in registry.all() if field in spec.own_fields)
                raise InvalidSetting(f"{origin(field)}: a field of {of}, not of this model.", param=origin(field))
    return defaults_of(name, file, typed)


def named(error: OpenLLMError, values: Mapping[str, Any], origin: Callable[[str], str]) -> OpenLLMError:
    """The same error, with the flag or key in front that its value came from."""
    name = (error.param or "").partition("[")[0].partition(".")[0]
    if name not in values:
        return error
    kind = type(error) if isinstance(error, (InvalidSetting, InvalidRequest)) else InvalidSetting
    return kind(f"{origin(name)}: {error.message}", hint=error.hint, param=origin(name))


def flag(name: str) -> str:
    """A field as a flag."""
    return "--" + name.replace("_", "-")


def key(name: str) -> str:
    """A field as a key of the configuration file."""
    return f"key {name!r}"


# -- completion ---------------------------------------------------------------------------------------------------


def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion of `--model-id`: the official ids of MODEL's family, of all families without one."""
    family = registry.get(ctx.params["model"]) if ctx.params.get("model") else ctx.meta.get(FAMILY)
    families = [family] if family is not None else list(registry.all())
    return [
        CompletionItem(model_id, help=spec.name)
        for spec in families
        for model_id in spec.model_ids
        if model_id.lower().startswith(incomplete.lower())
    ]
