"""An answer printed as it comes, and what it cost."""

from __future__ import annotations

import os
import sys

from openllm_client import HTTPClient
from openllm_core.errors import OpenLLMError

with HTTPClient(os.environ.get("OPENLLM_ENDPOINT", "http://localhost:3000")) as client:
    usage = None
    try:
        wanted = {"include_usage": True}  # a last chunk without text, which tells what it cost
        for chunk in client.chat("How is the weather in Paris?", stream=True, stream_options=wanted, max_tokens=64):
            print(chunk.text, end="", flush=True)
            usage = chunk.usage or usage
    except OpenLLMError as error:  # the server said so, or the connection broke: either way this is no whole answer
        sys.exit(f"\nThe stream broke off: {error}")
    print(f"\n{usage.completion_tokens} tokens" if usage else "")
