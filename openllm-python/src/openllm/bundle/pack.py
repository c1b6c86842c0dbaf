"""The child process in which BentoML makes a Bento of a folder: it imports the service, changes folders, and prints.

Run by `build.py` as `python -m openllm.bundle.pack`, with the facts as JSON on stdin; the Bento lies in `target` then.
Nothing of it happens in the calling process, where a second build would find the first one's modules.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from .untracked import bentoml

LIMIT_CHARS = 600


def pack(facts: dict[str, Any]) -> None:
    """Make the Bento.

    Args:
        facts: `context` (folder of the sources), `service` (`module:attribute`), `name`, `version`, `labels`, `models`
            (tags), `envs`, `description`, `target` (folder to make).
    """
    schema = bentoml("._internal.bento.build_config")
    target = Path(facts["target"])
    bentoml("._internal.configuration.containers").BentoMLContainer.tmp_bento_store_dir.set(str(target.parent))
    made = bentoml().Bento.create(
        schema.BentoBuildConfig(
            service=facts["service"],
            name=facts["name"],
            description=facts["description"],
            labels=facts["labels"],
            models=facts["models"],
            envs=[schema.BentoEnvSchema(**env) for env in facts["envs"]],
            include=["*", "**"],
        ),
        version=facts["version"],
        build_ctx=facts["context"],
    )
    os.chmod(made.path, 0o755)
    os.rename(made.path, target)  # BentoML removes its folder at the end of this process


if __name__ == "__main__":
    try:
        pack(json.load(sys.stdin))
    except Exception as error:  # the outermost frame: whoever called us tells it in one line
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}"[:LIMIT_CHARS])
