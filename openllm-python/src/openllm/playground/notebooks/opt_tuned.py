"""Fine-tune OPT with an adapter

A LoRA adapter of a few hundred thousand weights teaches OPT to finish quotes; the model itself stays as it is. Needs the extra
`fine-tune`: `pip install "openllm[fine-tune]"`.
"""

# %%
from pathlib import Path

import openllm
from openllm.finetune import Example, TrainingOptions, save_adapter, train

# %% [markdown]
# Any OPT will do: `facebook/opt-125m` takes a minute on a CPU, `facebook/opt-6.7b` wants a GPU.

# %% parameters
MODEL = "facebook/opt-125m"
STEPS = 40
LEARNING_RATE = 1e-3

# %% [markdown]
# `prepare_for_training` loads the model into this process and adds the adapter, with the settings that suit OPT. What comes
# back is peft's model and the tokenizer: any trainer takes them.

# %%
llm = openllm.LLM(MODEL)
model, tokenizer = llm.prepare_for_training(adapter_type="lora")
model.print_trainable_parameters()

# %% [markdown]
# An example is a prompt, which is read, and its completion, which is learnt.

# %%
QUOTES = {
    "Be yourself;": " everyone else is already taken.",
    "So many books,": " so little time.",
    "A room without books": " is like a body without a soul.",
    "You only live once,": " but if you do it right, once is enough.",
}
examples = [Example(prompt=prompt, completion=completion) for prompt, completion in QUOTES.items()]
options = TrainingOptions(max_steps=STEPS, learning_rate=LEARNING_RATE, batch_size=4)
outcome = train(model, tokenizer, examples, options=options, say=print)

# %% [markdown]
# What it says now:

# %%
model.eval()
for prompt in QUOTES:
    given = tokenizer(prompt, return_tensors="pt").to(model.device)
    made = model.generate(**given, max_new_tokens=16, do_sample=False)
    print(tokenizer.decode(made[0], skip_special_tokens=True))

# %% [markdown]
# The adapter is two files. `openllm start MODEL --adapter-id opt-tuned` serves it.

# %%
save_adapter(model, Path("opt-tuned"), base=llm.resolved().model_id)
print(sorted(path.name for path in Path("opt-tuned").iterdir()))
