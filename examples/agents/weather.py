"""An agent with one tool: a function of this program."""

from __future__ import annotations

import os

from openllm_client import HTTPClient


def weather(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: its name.
    """
    return f"It is sunny in {city}."


with HTTPClient(os.environ.get("OPENLLM_ENDPOINT", "http://localhost:3000")) as client:
    for step in client.ask_agent("How is Paris today?", tools=[weather], stream=True, max_steps=3):
        print(step)
        if step.last:
            print("answer:", step.answer)
