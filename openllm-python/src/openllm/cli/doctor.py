"""`openllm doctor [MODEL]`: what would stop a start here, what may hurt later, and the command that mends each.

Prints what `openllm.doctor` finds; `openllm start --check` is the same.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from openllm.cli import complete, failures
from openllm.cli.bento import wanted
from openllm.cli.command import Command, Session
from openllm.cli.locked import lock_checks
from openllm.cli.options import Settings, config_option, setting_options
from openllm.cli.output import Output, output_option, paint
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions

if TYPE_CHECKING:
    from openllm.doctor import Check, Finding, Situation

SIGNS = {"ok": ("✓", "green"), "note": ("·", "cyan"), "warn": ("!", "yellow"), "red": ("✗", "red")}
NAME_WIDTH = 10
INDENT = NAME_WIDTH + 3  # a sign, and two blanks


@click.command("doctor", cls=Command)
@click.argument("model", required=False, shell_complete=complete.model)
@click.option("--model-id", metavar="ID", envvar="OPENLLM_MODEL_ID", show_envvar=True, help="Hub id or folder.")
@output_option
@config_option
@setting_options(EngineOptions, ServerOptions, StoreOptions)
@click.pass_obj
def command(
    session: Session, model: str | None, model_id: str | None, output: str, config: Path | None, **typed: Any
) -> int:
    """Check whether `openllm start` with the same words would succeed, without loading anything.

    Looks at versions and packages that break each other, devices, port, store, model, memory, and every limit with its
    source. Exit code 0: it would; 71: the machine lacks something; 78: the installation or the configuration is wrong.
    """
    what = wanted(typed, config, {}, model, model_id)
    return report(what.settings, what.model, what.model_id, Output(output, session))


def situation_of(settings: Settings, model: str | None, model_id: str | None) -> Situation:
    """What the checks look at, for these settings."""
    from openllm.doctor import Situation

    return Situation(
        engine=settings.engine,
        server=settings.server,
        store=settings.store,
        sources=dict(settings.sources),
        model=model,
        model_id=model_id,
    )


def report(settings: Settings, model: str | None, model_id: str | None, out: Output) -> int:
    """Make all checks and print them.

    Returns:
        0, 71 or 78.
    """
    from openllm.doctor import CHECKS, examine, exit_code

    findings = examine(situation_of(settings, model, model_id), (*CHECKS, *lock_checks(settings)))
    code = exit_code(findings)
    if out.format == "json":
        shown = [attrs.asdict(f, filter=lambda field, _: field.name not in ("error", "exit_code")) for f in findings]
        out.json({"ok": code == 0, "exit_code": code, "findings": shown})
    elif out.format == "porcelain":
        for finding in findings:
            out.data("\t".join((finding.level, finding.name, finding.text, finding.fix)))
    else:
        for finding in findings:
            _print(finding, out)
        _sum_up(findings, out)
    return code


def refuse(situation: Situation, checks: Sequence[Check]) -> None:
    """Make some checks and say nothing unless one of them would stop the start; then all that would, and end the program.

    Raises:
        click.exceptions.Exit: with the code that `openllm doctor` would end with.
    """
    from openllm.doctor import examine, exit_code, reds

    found = reds(examine(situation, checks))
    for text, fix in dict.fromkeys((finding.text, finding.fix) for finding in found):  # two checks may meet one reason
        failures.report(text, fix)
    if found:
        raise click.exceptions.Exit(exit_code(found))


def _print(finding: Finding, out: Output) -> None:
    sign, colour = SIGNS[finding.level]
    name = paint(f"{finding.name:<{NAME_WIDTH}}", sys.stdout, dim=True)
    first, *rest = _folded(finding.text, out)
    first, *rest = _folded(finding.text, out)
    out.data(f"{paint(sign, sys.stdout, fg=colour)} {name} {first}")
    for line in rest:
        out.data(" " * INDENT + line)
    for line in _folded(f"→ {finding.fix}", out) if finding.fix else ():
        out.data(" " * INDENT + paint(line, sys.stdout, fg=colour))


def _folded(text: str, out: Output) -> list[str]:
    """The lines of a finding behind its name; words and paths stay whole, and what fits stays as it is."""
    room = max(out.width - INDENT, 20)
    return [text] if len(text) <= room else textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def _sum_up(findings: list[Finding], out: Output) -> None:
    count = {level: sum(finding.level == level for finding in findings) for level in SIGNS}
    if count["red"]:
        out.say(f"\n{count['red']} would stop a start, {count['warn']} may hurt later.", fg="red", bold=True)
    elif count["warn"]:
        out.say(f"\nA start would succeed; {count['warn']} may hurt later.", fg="yellow")
    else:
        out.say("\nA start would succeed.", fg="green")
