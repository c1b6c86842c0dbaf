"""Pins the sibling packages to this package's own version while hatchling builds it.

The three packages are released in lockstep and tested only together, so a wheel asks for exactly its siblings. They are
named in `lockstep` of `[tool.hatch.metadata.hooks.custom]`; everything else this package needs is in `dependencies`.
"""

from __future__ import annotations

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class LockstepDependencies(MetadataHookInterface):
    """Fills `dependencies` with the siblings at `== version`, then the package's own."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling once the version is known."""
        siblings = [f"{name}=={metadata['version']}" for name in self.config["lockstep"]]
        metadata["dependencies"] = siblings + self.config["dependencies"]
