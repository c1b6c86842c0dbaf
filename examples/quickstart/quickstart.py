"""One question, asked by OpenAI's client and by OpenLLM's."""

from __future__ import annotations

import os

from openai import OpenAI

from openllm_client import HTTPClient

ENDPOINT = os.environ.get("OPENLLM_ENDPOINT", "http://localhost:3000")
QUESTION = "How is the weather in Paris?"

openai = OpenAI(base_url=f"{ENDPOINT}/v1", api_key=os.environ.get("OPENLLM_API_KEY", "none"))
answer = openai.chat.completions.create(
    model=openai.models.list().data[0].id, messages=[{"role": "user", "content": QUESTION}], max_tokens=64
)
print("openai: ", answer.choices[0].message.content)

with HTTPClient(ENDPOINT) as client:
    print("openllm:", client.chat(QUESTION, max_tokens=64).text)
