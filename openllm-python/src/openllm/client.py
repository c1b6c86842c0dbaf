"""The client under the runtime's own name: `openllm.client.HTTPClient` is `openllm_client.HTTPClient`."""

from __future__ import annotations

from openllm_client import AsyncHTTPClient, HTTPClient

__all__ = ["AsyncHTTPClient", "HTTPClient"]
