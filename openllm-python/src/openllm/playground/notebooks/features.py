"""Serve a model and ask it

The default model, in this process and behind a server: one answer, an answer as it is written, a conversation, and the
OpenAI routes. Everything here runs on a CPU; the model is fetched once.
"""

# %%
import subprocess
import sys

import httpx

import openllm

# %% [markdown]
# Another model goes here: a family (`opt`), an id of the hub, or a folder. `None` is the default model.

# %% parameters
MODEL: str | None = None

# %% [markdown]
# ## In this process
#
# `LLM` loads the model when it is first used. A list of prompts is one batch.

# %%
with openllm.LLM(MODEL) as llm:
    print(llm.generate("The capital of France is", max_tokens=8, temperature=0).text)
    for answer in llm.generate(["One, two, three,", "Monday, Tuesday,"], max_tokens=8, temperature=0):
        print(answer.text)
    for piece in llm.generate_stream("Once upon a time", max_tokens=24, temperature=0):
        print(piece.text, end="", flush=True)

# %% [markdown]
# ## Behind a server
#
# What `openllm start` does in a terminal. It prints its address once a real token has been generated.

# %%
server = subprocess.Popen(
    [sys.executable, "-m", "openllm", "start", *([MODEL] if MODEL else []), "--port", "0", "-o", "porcelain"],
    stdout=subprocess.PIPE,
    text=True,
)
assert server.stdout is not None
url = server.stdout.readline().strip()
print(url)

# %% [markdown]
# `chat` uses the model's own chat template; `query` sends a prompt as it is.

# %%
client = openllm.client.HTTPClient(url, timeout=120)
answer = client.chat("What is the capital of France?", max_tokens=16, temperature=0)
print(answer.choices[0].message.content)
print(client.query("The sky is", max_new_tokens=8, temperature=0.1))

# %% [markdown]
# Any client that speaks OpenAI works too. This is the request such a client sends.

# %%
name = client.models()[0].id
body = {"model": name, "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8, "temperature": 0}
reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120).json()
print(reply["choices"][0]["message"]["content"])
print(reply["usage"])

# %%
client.close()
server.terminate()
print("ended with", server.wait(60))
