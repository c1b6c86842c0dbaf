"""`openllm get-prompt MODEL TEXT`: the prompt a model would get, printed and not sent.

A model on this machine renders with its own chat template, as the server does; a family, or a model without one, with the
family's prompt template. Starts and fetches nothing.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import attrs
import click

from openllm.cli import complete
from openllm.cli.command import Command, Session
from openllm.cli.options import pairs, read_settings
from openllm.cli.output import Output, output_option
from openllm_core.errors import ModelNotFound, UnknownModel
from openllm_core.families import registry
from openllm_core.families.spec import FamilySpec
from openllm_core.options import StoreOptions
from openllm_core.prompts import format_of, prompt_of

RENDER_LIMIT_S = 20.0  # the worker process starts within it, on a busy machine too


@attrs.frozen(kw_only=True)
class Rendered:
    """A prompt.

    Attributes:
        template: whose template made it.
        unused: options the template had no field for.
    """

    prompt: str
    template: str
    unused: tuple[str, ...] = ()


@click.command("get-prompt", cls=Command)
@click.argument("model", shell_complete=complete.model)
@click.argument("text", metavar="TEXT")
@click.option("--format", "form", metavar="NAME", help="Prompt format of the family, where it has several.")
@click.option("--opt", "opts", metavar="KEY=VALUE", multiple=True, help="Variable of the template; repeatable.")
@click.option("--machine", is_flag=True, hidden=True)
@output_option
@click.pass_obj
def command(
    session: Session, model: str, text: str, form: str | None, opts: tuple[str, ...], machine: bool, output: str
) -> None:
    """Print the prompt that MODEL would get for TEXT.

    MODEL is a family, or a model on this machine: a folder, a stored tag, an id. With -o porcelain the prompt is printed
    alone, without a line end of its own.
    """
    out = Output("json" if machine else output, session)
    made = render(model, text, form, pairs(opts, "--opt"), read_settings().store)
    out.fact("Template", made.template)
    for name in made.unused:
        out.fact("Ignored", f"--opt {name}", "the template has no such variable")
    if out.format == "json":
        out.json({"prompt": made.prompt, "template": made.template})
    else:
        out.data(made.prompt, newline=output == "pretty")


def render(model: str, text: str, form: str | None, values: dict[str, str], store: StoreOptions) -> Rendered:
    """Make the prompt.

    Args:
        form: name of a format of the family; None leaves the choice to the model.
        values: variables of the template.

    Raises:
        UnknownModel, ModelNotFound: nothing is named so, or the template comes with a model that is not here.
        InvalidRequest: the template refuses, or there is no such format.
        click.UsageError: the family wants its format or a variable named.
    """
    folder, family = _find(model, store)
    if folder is not None and form is None:
        from openllm.tokenizer import config_facts

        special, _, template = config_facts(folder)
        if template is not None:
            prompt = asyncio.run(_from_chat_template(template, special, text, values))
            return Rendered(prompt=prompt, template=f"the model's own chat template, in {folder}")
    if family is None:
        raise ModelNotFound(
            f"{model[:200]!r} has no chat template and is of no family, so its prompt is the text as it is.",
            hint="`openllm models` lists families.",
        )
    return _from_family(family, model, text, form, values)


def _find(model: str, options: StoreOptions) -> tuple[Path | None, FamilySpec | None]:
    """The folder of a model that is on this machine, and its family."""
    from openllm.serialisation import formats, importing
    from openllm.serialisation.locate import locate, near_names
    from openllm.serialisation.store import Store

    store = Store(options)
    located = locate(model, store)
    entry = located.entry
    if located.hub_id is not None:
        entry = store.find_id(located.hub_id.id, located.hub_id.revision)
    if entry is not None:
        name = located.family or entry.family or importing.family_of(entry.model_id, entry.architecture)
        return entry.path, registry.get(name) if name else None
    if located.folder is None:
        family = registry.get(located.family or model.partition(":")[0])
        if family is None:
            known = "/" in model
            hint = f"openllm import {model[:200]}" if known else near_names(model, store)
            raise ModelNotFound(f"{model[:200]} is {'not on this machine' if known else 'no model'}.", hint=hint)
        return None, family
    if not located.folder.is_dir():
        raise UnknownModel(f"{located.folder} is a file.", hint=f"openllm import {located.folder}")
    architecture = formats.inspect(located.folder).architecture
    name = importing.family_of(located.folder.name, architecture)
    return located.folder, registry.get(name) if name else None


async def _from_chat_template(template: str, special: dict[str, str], text: str, values: dict[str, str]) -> str:
    """Render as the server does: in a worker process, within its limits."""
    from openllm.chat import ChatRenderer

    renderer = ChatRenderer(template, special, limit_s=RENDER_LIMIT_S)
    try:
        variables = {name: _json(value) for name, value in values.items()}
        return await renderer.render([{"role": "user", "content": text}], **variables)
    finally:
        await renderer.aclose()


def _from_family(family: FamilySpec, model: str, text: str, form: str | None, values: dict[str, str]) -> Rendered:
    facts = family.prompt
    if not facts.formats:
        raise ModelNotFound(
            f"The models of {family.name} carry their template themselves, and {model[:200]} is not on this machine.",
            hint=f"openllm import {model[:200]}",
        )
    named = next((part for part in facts.format_by_id if part in model.lower()), None)
    if form is None and facts.must_name_format and named is None:
        raise click.UsageError(
            f"{family.name} has several prompt formats; choose one: --format {'|'.join(facts.formats)}."
        )
    model_id = model if model in family.model_ids else family.default_id
    chosen = form or format_of(family, model_id=model_id, values=values)
    missing = [name for name in family.prompt_format(chosen).required if name not in values]
    if missing:
        raise click.UsageError(f"The template needs {' '.join(f'--opt {name}=TEXT' for name in missing)}.")
    given: dict[str, Any] = {**values, "use_default_prompt_template": True, "prompt_format": chosen}
    given["model_id"] = model_id
    if "chat_history" in values:
        given["chat_history"] = _json(values["chat_history"])
    prompt, left = prompt_of(family, text, given)
    which = f", format {chosen}" if len(facts.formats) > 1 else ""
    return Rendered(prompt=prompt, template=f"family {family.name}{which}", unused=tuple(left))


def _json(text: str) -> Any:
    """A value as a template takes it: JSON where it is that (`false`, `3`), else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
