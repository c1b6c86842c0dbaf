"""BentoML, without the reports that it sends of its use.

Every module of this folder takes BentoML from here. BentoML decides once per process, by a variable, whether it reports; under
`bentoml serve` it has decided before our service is read, so what it remembers of that is forgotten.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

VARIABLE = "BENTOML_DO_NOT_TRACK"


def bentoml(module: str = "") -> Any:
    """BentoML, or a module below it, in a process that reports nothing from here on."""
    os.environ[VARIABLE] = "True"
    found = import_module("bentoml" + module)
    import_module("bentoml._internal.utils.analytics.usage_stats").do_not_track.cache_clear()
    return found
