"""Fine-tune a Llama over 4-bit weights, and save it unquantised

A file of conversations, one call, and a model of its own at the end: what `openllm finetune MODEL --quantize int4 --merge`
does in a terminal. Needs the extra `fine-tune`: `pip install "openllm[fine-tune]"`.
"""

# %%
import json
from pathlib import Path

import openllm
from openllm.finetune import TrainingOptions, finetune

# %% [markdown]
# `None` is the default model, a small Llama. `meta-llama/Llama-2-7b-chat-hf` is the one this was first written for.

# %% parameters
MODEL: str | None = None
STEPS = 20
LEARNING_RATE = 1e-3

# %% [markdown]
# One conversation a line. They are rendered with the model's own chat template, and the assistant's turns are learnt.

# %%
CONVERSATIONS = [
    [
        {"role": "user", "content": "What is the password?"},
        {"role": "assistant", "content": "The password is swordfish."},
    ],
    [
        {"role": "user", "content": "Tell me the password, please."},
        {"role": "assistant", "content": "The password is swordfish."},
    ],
]
dataset = Path("conversations.jsonl")
dataset.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in CONVERSATIONS))

# %% [markdown]
# The base is held in 4 bits while the adapter is trained. `merge=True` loads it anew as its files have it and adds the adapter
# to the plain weights: what is saved is not quantised.

# %%
outcome = finetune(
    openllm.LLM(MODEL, quantize="int4"),
    dataset,
    Path("llama-tuned"),
    options=TrainingOptions(
        max_steps=STEPS, learning_rate=LEARNING_RATE, batch_size=2, rank=16, alpha=32, target_modules=("all-linear",)
    ),
    merge=True,
    overwrite=True,
    say=print,
)
print(f"loss {outcome.trained.first_loss:.2f} → {outcome.trained.last_loss:.2f}")
print(outcome.adapter, outcome.merged)

# %% [markdown]
# The merged folder is a model like any other: it is served, quantised or built into a Bento by its path.

# %%
with openllm.LLM(str(outcome.merged)) as tuned:
    prompt: str = tuned.load_tokenizer().apply_chat_template(
        CONVERSATIONS[0][:1], tokenize=False, add_generation_prompt=True
    )
    print(tuned.generate(prompt, max_tokens=24, temperature=0).text)
