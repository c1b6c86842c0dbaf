"""Fine-tune Falcon over 4-bit weights

QLoRA: the model is held in 4 bits, so that a large one fits a small machine, and the adapter is trained over it in full
precision. Needs the extra `fine-tune`: `pip install "openllm[fine-tune]"`.
"""

# %%
from pathlib import Path

import openllm
from openllm.finetune import Example, TrainingOptions, save_adapter, train

# %% [markdown]
# `tiiuae/falcon-7b` takes 6 GB in 4 bits; on a CPU try `tiiuae/falcon-rw-1b`.

# %% parameters
MODEL = "tiiuae/falcon-7b"
STEPS = 40
LEARNING_RATE = 5e-4

# %% [markdown]
# `quantize="int4"` is all that QLoRA adds: normal-float values of 4 bits, their scales quantised too. What is given to
# `prepare_for_training` goes before the settings that suit Falcon.

# %%
llm = openllm.LLM(MODEL, quantize="int4")
model, tokenizer = llm.prepare_for_training(adapter_type="lora", lora_dropout=0.05)
model.print_trainable_parameters()

# %%
QUESTIONS = {
    "### Human: Who are you?\n### Assistant:": " I am a falcon.",
    "### Human: Where do you live?\n### Assistant:": " On a cliff.",
    "### Human: What do you eat?\n### Assistant:": " Small birds.",
}
examples = [Example(prompt=prompt, completion=completion) for prompt, completion in QUESTIONS.items()]
options = TrainingOptions(max_steps=STEPS, learning_rate=LEARNING_RATE, batch_size=3)
outcome = train(model, tokenizer, examples, options=options, say=print)

# %%
model.eval()
for prompt in QUESTIONS:
    given = tokenizer(prompt, return_tensors="pt").to(model.device)
    made = model.generate(**given, max_new_tokens=16, do_sample=False)
    print(tokenizer.decode(made[0], skip_special_tokens=True))

# %% [markdown]
# The adapter is in full precision: it serves over the quantised model and over the plain one alike.

# %%
save_adapter(model, Path("falcon-tuned"), base=llm.resolved().model_id)
print(sorted(path.name for path in Path("falcon-tuned").iterdir()))
