"""The Containerfile of a Bento: BentoML's text, and no value that adds an instruction to it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.openllm.bundle.containers import IMAGE, instructions, make_bento, words

from openllm.bundle import containerfile
from openllm.bundle.bentos import Bento
from openllm_core.errors import CorruptModel, InvalidSetting

HOSTILE = [
    "a\nRUN id",
    "a\r\nRUN id",
    "a\rRUN id",
    "a\\\nRUN id",
    "a\x0bRUN id",
    "a\x0cRUN id",
    "a\x1cRUN id",
    "a\x85RUN id",
    "a\u2028RUN id",
    "a\u2029RUN id",
    "\nUSER root",
    '\n\nENTRYPOINT ["sh"]',
    "x\x00y",
    "x\x1b[2Jy",
]
"""No field takes these: each can end a line somewhere."""
ODD = [
    "$(id)",
    "`id`",
    "${PATH}",
    "$PATH",
    "'; id; '",
    '"; id; "',
    "a' RUN id '",
    "a\\",
    "\\",
    "'",
    '"',
    "''",
    "# syntax=evil",
    "a # b",
    "a && id",
    "a | id",
    "a > /etc/passwd",
    "<<EOF",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{# x #}",
    "--mount=type=secret",
    "RUN id",
    "a RUN id",
    "a AS other",
    "../../etc/passwd",
    "%0aRUN id",
    "\\nRUN id",
    "${IFS}",
    "\N{RIGHT-TO-LEFT OVERRIDE}x",
    "\N{FULLWIDTH DOLLAR SIGN}(id)",
    "a\tb",
    " lead and trail ",
    "😀",
    "é",
    "--",
    "-x",
    "~root",
    "*",
    "?",
    "!x",
    "a;b",
    "a&b",
    "[x]",
    "\\x41",
    "'\"'\"'",
]
"""A variable's value may be any of these, as text."""


@pytest.fixture
def bento(tmp_path: Path) -> Bento:
    return make_bento(tmp_path, envs=[{"name": "A", "value": "plain"}])


def with_info(bento: Bento, **info: Any) -> Bento:
    """The Bento with other facts in its bento.yaml."""
    return Bento(name=bento.name, version=bento.version, path=bento.path, info={**bento.info, **info})


def with_value(bento: Bento, field: str, value: str) -> Bento:
    """The Bento with one value changed."""
    image, env = dict(IMAGE), {"name": "A", "value": "plain"}
    if field in env:
        env[field] = value
    elif isinstance(image[field], list):
        image[field] = [value]
    else:
        image[field] = value
    return with_info(bento, image=image, envs=[env])


FIELDS = ["value", "name", "base_image", "python_version", "commands", "post_commands", "build_include"]


@pytest.mark.parametrize("field", FIELDS)
def test_nothing_that_ends_a_line_is_accepted(bento: Bento, field: str) -> None:
    """A line end, a separator of another script or a control character, in any field, is refused by name."""
    for value in HOSTILE:
        if field in ("commands", "post_commands") and "\\\n" in value:
            continue  # a command may go on after a backslash: it stays one RUN
        with pytest.raises(InvalidSetting, match="cannot stand in a Containerfile"):
            containerfile.render(with_value(bento, field, value))


@pytest.mark.parametrize("field", FIELDS)
def test_odd_values_add_no_instruction(bento: Bento, field: str) -> None:
    """Quotes, `$(`, backslashes, template marks: refused, or text inside the instruction they belong to."""
    plain = words(containerfile.render(bento))
    accepted = 0
    for value in ODD:
        try:
            text = containerfile.render(with_value(bento, field, value))
        except InvalidSetting:
            continue
        assert words(text) == plain, value
        accepted += 1
    assert accepted == 0 if field in ("name", "base_image", "python_version") else accepted > 0


def test_a_value_keeps_its_text(bento: Bento) -> None:
    """What a shell or Docker would expand reaches the container as it was given."""
    text = containerfile.render(with_value(bento, "value", '{"a": "it\'s $(id) $HOME"}'))
    assert """ARG A='{"a": "it'"'"'s $(id) $HOME"}'""" in instructions(text)


@settings(max_examples=60, deadline=None)
@given(field=st.sampled_from(FIELDS), value=st.text(min_size=1, max_size=60))
def test_any_text_adds_no_instruction(field: str, value: str) -> None:
    """Whatever the text: it is refused, or the file has the instructions it had."""
    bento = Bento(
        name="x", version="v1", path=Path("/nowhere"), info={"image": IMAGE, "envs": [{"name": "A", "value": "p"}]}
    )
    try:
        text = containerfile.render(with_value(bento, field, value))
    except InvalidSetting:
        return
    assert words(text) == words(containerfile.render(bento))


def test_it_is_what_bentoml_containerize_builds_from(tmp_path: Path) -> None:
    """Line by line the text that BentoML itself makes of the same Bento, and at its end the health check."""
    import bentoml
    from bentoml._internal.container import construct_containerfile

    bento = make_bento(tmp_path, models=(), envs=[{"name": "A", "value": "b c"}])
    info = bento.path / "bento.yaml"
    info.write_text(
        info.read_text() + "service: x:svc\ncreation_time: '2026-01-01T00:00:00+00:00'\nbentoml_version: 1.4.39\n"
    )
    with construct_containerfile(bentoml.Bento.from_path(str(bento.path)), add_header=True) as (_, path):
        theirs = Path(path).read_text()
    assert instructions(containerfile.render(bento)) == [*instructions(theirs), containerfile.health_check()]


def test_the_port_it_was_built_with_is_exposed(bento: Bento) -> None:
    """What `bentoml serve` listens on stands in the Bento's service; 3000 where nothing, or nonsense, does."""
    for http, port in (({"port": 8080}, 8080), ({}, 3000), ({"port": 0}, 3000), ({"port": "x"}, 3000), ("x", 3000)):
        text = containerfile.render(with_info(bento, services=[{"name": "x", "config": {"http": http}}]))
        exposed = [line for line in instructions(text) if line.startswith("EXPOSE")]
        assert exposed == [f"EXPOSE {port}", "EXPOSE 3001"]


def test_the_health_check_is_the_last_word_of_the_image(bento: Bento) -> None:
    """Ours, once; a template's own stays alone; a Bento that somebody else built has no `openllm` to ask."""
    assert words(containerfile.render(bento)).count("HEALTHCHECK") == 1
    assert "HEALTHCHECK" not in words(containerfile.render(with_info(bento, labels={})))
    (bento.path / containerfile.TEMPLATE).write_text(
        "{% extends bento_base_template %}\n{% block SETUP_BENTO_ENTRYPOINT %}\n{{ super() }}\nHEALTHCHECK NONE\n{% endblock %}\n"
    )
    assert [line for line in instructions(containerfile.render(bento)) if "HEALTHCHECK" in line] == ["HEALTHCHECK NONE"]


TEMPLATE = """{% extends bento_base_template %}
{% block SETUP_BENTO_COMPONENTS %}
RUN echo before
{{ super() }}
{% endblock %}
"""


def test_its_own_template(bento: Bento) -> None:
    """`--dockerfile-template` extends BentoML's blocks; the rest stays."""
    plain = instructions(containerfile.render(bento))
    (bento.path / containerfile.TEMPLATE).write_text(TEMPLATE)
    text = instructions(containerfile.render(bento))
    assert "RUN echo before" in text
    assert [line for line in text if line != "RUN echo before"] == plain


@pytest.mark.parametrize(
    "text", ["{% block", "{% extends nothing %}", "{{ missing.part.of.it }}", "{{ ''.__class__.mro() }}"]
)
def test_a_wrong_template_is_named(bento: Bento, text: str) -> None:
    """A template that cannot be read, or reaches where it may not, is the operator's error, without a traceback."""
    (bento.path / containerfile.TEMPLATE).write_text(text)
    with pytest.raises(InvalidSetting, match="template"):
        containerfile.render(bento)


def test_a_bento_of_the_old_layout(tmp_path: Path) -> None:
    """A Bento that BentoML made without an image says so."""
    bento = make_bento(tmp_path)
    old: dict[str, Any] = {**bento.info}
    del old["image"]
    with pytest.raises(CorruptModel, match="older layout"):
        containerfile.render(Bento(name="x", version="v1", path=bento.path, info=old))


def test_every_image_listens_outside_and_finds_torch_and_its_server() -> None:
    """Loopback reaches nobody in a container, PyTorch's index must not hide the other one, the server's note has a folder."""
    assert containerfile.ENVIRONMENT == {
        "OPENLLM_HOST": "0.0.0.0",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "XDG_RUNTIME_DIR": "/tmp",
    }


def test_the_containerfile_passes_hadolint(bento: Bento) -> None:
    """hadolint reads it and finds no error; its advice is about BentoML's template."""
    linter = Path(sys.executable).with_name("hadolint")
    with tempfile.NamedTemporaryFile("w", suffix=".Containerfile") as file:
        file.write(containerfile.render(bento))
        file.flush()
        done = subprocess.run([linter, "--failure-threshold", "error", file.name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
