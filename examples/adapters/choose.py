"""The same prompt to every adapter of a server, and to the bare base."""

from __future__ import annotations

import os

from openllm_client import HTTPClient

with HTTPClient(os.environ.get("OPENLLM_ENDPOINT", "http://localhost:3000")) as client:
    for name in ("base", *(card.name for card in client.adapters().adapters)):
        print(f"{name}: {client.generate('Roses are red,', adapter_name=name, max_tokens=64).text}")
