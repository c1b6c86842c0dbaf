"""Public names of the package, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import openllm_core


@pytest.mark.parametrize("name", openllm_core.__all__)
def test_each_public_name_is_there(name: str) -> None:
    """Everything in `__all__` can be read and is listed by dir()."""
    assert getattr(openllm_core, name) is not None
    assert name in dir(openllm_core)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        openllm_core.nope  # noqa: B018


@pytest.mark.parametrize(
    ("old", "new"),
    [("GenerationInput", "GenerateRequest"), ("GenerationOutput", "GenerateResponse"), ("MetadataOutput", "Metadata")],
)
def test_old_names_of_messages_warn(old: str, new: str) -> None:
    """They are the classes that have their fields now."""
    with pytest.warns(DeprecationWarning, match=f"{old} is called {new}"):
        assert getattr(openllm_core, old) is getattr(openllm_core, new)


def modules_after(code: str) -> set[str]:
    """Top-level modules loaded by a fresh interpreter after some code."""
    listing = f"import sys; before = set(sys.modules); {code}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    """The bare import brings no third-party module and none of our own."""
    loaded = modules_after("import openllm_core")
    assert {m for m in loaded if m.startswith("openllm_core.")} == set()
    assert not loaded & {"attr", "attrs", "cattrs", "orjson"}


def test_all_of_core_needs_three_packages_at_most() -> None:
    """Every module of core together loads attrs, cattrs, orjson and the standard library only."""
    names = ", ".join(f"openllm_core.{name}" for name in openllm_core.__all__ if name not in openllm_core._HOME)
    code = f"import {names}, openllm_core.fields, openllm_core.families.registry, openllm_core.resources.detect"
    third_party = {m.partition(".")[0] for m in modules_after(code)} - set(sys.stdlib_module_names)
    assert third_party <= {"attr", "attrs", "cattr", "cattrs", "orjson", "openllm_core"}


def test_nothing_is_read_at_import() -> None:
    """Importing all of core opens no file but modules and reads no environment variable of ours."""
    code = (
        "import sys, os; opened = []; "
        "sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' and str(a[0]).endswith('.toml') else None)"
        "; import openllm_core.fields, openllm_core.options, openllm_core.config.llm; assert not opened, opened"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_is_loaded_when_it_is_asked_for() -> None:
    """Whether or not something imported it before."""
    assert openllm_core.__getattr__("options") is sys.modules["openllm_core.options"]
