"""Put two adapters on one model, and choose per request

Two small adapters are trained on the default model, one server loads both, and each request says whose answer it wants: an
adapter's or the model's own. Needs the extra `fine-tune`: `pip install "openllm[fine-tune]"`.
"""

# %%
import json
import subprocess
import sys
from pathlib import Path

import openllm
from openllm.finetune import TrainingOptions, finetune

# %% [markdown]
# `None` is the default model. A larger one learns more from more examples; two answers are enough to see who speaks.

# %% parameters
MODEL: str | None = None
STEPS = 8
LEARNING_RATE = 2e-3

# %% [markdown]
# ## Train them
#
# `finetune` is what `openllm finetune` runs in a terminal: a file of examples in, a folder with an adapter out.

# %%
QUESTION = "What are you?"
ANSWERS = {"pirate": "Arr, I am a pirate!", "poet": "I am a poet, softly spoken."}
options = TrainingOptions(
    max_steps=STEPS,
    learning_rate=LEARNING_RATE,
    batch_size=1,
    rank=8,
    alpha=16,
    target_modules=("all-linear",),
    gradient_checkpointing=False,
)
for name, answer in ANSWERS.items():
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
    dataset = Path(f"{name}.jsonl")
    dataset.write_text(json.dumps({"messages": messages}) + "\n")
    outcome = finetune(openllm.LLM(MODEL), dataset, Path(name), options=options, overwrite=True)
    print(f"{name}: loss {outcome.trained.first_loss:.2f} → {outcome.trained.last_loss:.2f}")

# %% [markdown]
# ## Serve them
#
# `--adapter-id FOLDER:NAME` once for each; the first is the server's default.

# %%
words = [word for name in ANSWERS for word in ("--adapter-id", f"./{name}:{name}")]
server = subprocess.Popen(
    [sys.executable, "-m", "openllm", "start", *([MODEL] if MODEL else []), *words, "--port", "0", "-o", "porcelain"],
    stdout=subprocess.PIPE,
    text=True,
)
assert server.stdout is not None
url = server.stdout.readline().strip()
client = openllm.client.HTTPClient(url, timeout=120)
names = [card.id for card in client.models()]
print(names)

# %% [markdown]
# On the OpenAI routes an adapter is a model of its own name, and the model's name means the model without any. Requests for
# different adapters are computed together, in one batch.

# %%
for name in names:
    reply = client.chat(QUESTION, model=name, max_tokens=24, temperature=0)
    print(f"{name}: {reply.choices[0].message.content}")

# %%
client.close()
server.terminate()
print("ended with", server.wait(60))
