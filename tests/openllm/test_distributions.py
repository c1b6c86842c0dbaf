"""What is installed, read from metadata: the closure of requirements, extras, markers, licences."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from openllm.distributions import installed, versions


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of made-up packages in front of the real ones."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def package(site: Path, name: str, version: str, *lines: str) -> None:
    """Install a package that is nothing but its metadata."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    head = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    (folder / "METADATA").write_text("\n".join([*head, *lines]) + "\n")


def test_needs_are_followed_and_what_is_absent_left_out(site: Path) -> None:
    """Needs of needs count, in a circle too; markers that do not hold here and absent packages do not."""
    package(site, "P3-Top", "1.0", "Requires-Dist: p3_mid>=1", "Requires-Dist: p3-absent", "Requires-Dist: [broken")
    package(site, "p3-mid", "2.0", "Requires-Dist: p3-top", 'Requires-Dist: p3-win; sys_platform == "win32"')
    package(site, "p3-win", "3.0")
    found = installed(["p3.top"])
    assert {name: d.needs for name, d in found.items()} == {"p3-top": ("p3-mid",), "p3-mid": ("p3-top",)}
    assert versions(["p3-absent", "p3-win"]) == {"p3-win": "3.0"}


def test_an_extra_counts_where_it_is_asked_for(site: Path) -> None:
    """`top[more]` brings what `more` names; the bare name does not."""
    package(site, "p3-top", "1.0", "Provides-Extra: more", 'Requires-Dist: p3-mid; extra == "more"')
    package(site, "p3-mid", "2.0")
    assert list(versions(["p3-top"])) == ["p3-top"]
    assert list(versions(["p3-top", "p3-top[more]"])) == ["p3-mid", "p3-top"]


@pytest.mark.parametrize(
    ("lines", "licence", "is_spdx"),
    [
        (["License-Expression: MIT OR Apache-2.0", "License: other"], "MIT OR Apache-2.0", True),
        (["License: BSD"], "BSD", False),
        ([f"License: {'words ' * 40}", "Classifier: License :: OSI Approved :: MIT License"], "MIT License", False),
        (["License: UNKNOWN"], "", False),
        ([], "", False),
    ],
)
def test_the_licence_is_what_the_package_says(site: Path, lines: list[str], licence: str, is_spdx: bool) -> None:
    """The SPDX expression first, then the short old field, then the classifiers; a whole licence's text is no name."""
    package(site, "p3-top", "1.0", *lines)
    found = installed(["p3-top"])["p3-top"]
    assert (found.licence, found.is_spdx) == (licence, is_spdx)
