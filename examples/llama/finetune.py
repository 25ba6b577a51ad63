"""A LLaMA in 4 bits learns to tell good reviews from bad ones: prepare, adapt, train, evaluate, save, reload, use.

python examples/llama/finetune.py
python examples/llama/finetune.py --model ./smollm --data my_chats/ --max-steps 20
"""

import argparse
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, set_seed

from toolkit import LoraConfig, Trainer, TrainingArguments, load_model, load_processor

REVIEWS = str(Path(__file__).parent / "reviews")
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="huggyllama/llama-13b", help="a folder, or a name on the hub")
parser.add_argument("--data", default=REVIEWS, help="likewise; prompts with completions, or chats")
parser.add_argument("--output-dir", default="./results")
parser.add_argument("--max-steps", type=int, default=-1, help="to train for less than three epochs")
options = parser.parse_args()
set_seed(42)

# ---- prepare: what is asked and what is answered, of which only the answer is learnt

tokenizer = load_processor(options.model, AutoTokenizer)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
tokenizer.padding_side = "right"


def tokenize(row):
    if is_chat := "messages" in row:  # the template writes the special tokens
        *turns, _ = row["messages"]
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(row["messages"], tokenize=False).rstrip()
    else:
        asked = row["prompt"]
        whole = asked + row["completion"] + tokenizer.eos_token
    prompt = tokenizer(asked, add_special_tokens=not is_chat).input_ids
    tokens = tokenizer(whole, add_special_tokens=not is_chat).input_ids
    return {"input_ids": tokens, "labels": [-100] * len(prompt) + tokens[len(prompt) :]}


raw = load_dataset(options.data)
dataset = raw.map(tokenize, remove_columns=raw["train"].column_names)

# ---- adapt: a LoRA adapter on queries and keys, on weights in 4 bits

model = load_model(options.model, AutoModelForCausalLM, load_in_4bit=True, device_map="auto")
lora_config = LoraConfig(lora_alpha=16, lora_dropout=0.1, r=64, target_modules=["q_proj", "k_proj"])
model.add_adapter(lora_config, adapter_name="lora_adapter")
model.set_adapter("lora_adapter")

# ---- train and evaluate

training_args = TrainingArguments(
    output_dir=options.output_dir,
    evaluation_strategy="epoch",
    learning_rate=2e-5,
    per_device_train_batch_size=4,
    per_device_eval_batch_size=4,
    num_train_epochs=3,
    max_steps=options.max_steps,
    weight_decay=0.01,
)
trainer = Trainer(
    model=model,
    args=training_args,
    train_dataset=dataset["train"],
    eval_dataset=dataset["validation"],
    data_collator=DataCollatorForSeq2Seq(tokenizer),
    tokenizer=tokenizer,
)
trainer.train()
eval_results = trainer.evaluate()
print(f"Evaluation results: {eval_results}")

# ---- save, reload, use

adapter = Path(options.output_dir, "adapter")
model.save_pretrained(adapter)
tokenizer.save_pretrained(adapter)
reloaded = load_model(adapter, AutoModelForCausalLM, load_in_4bit=True, device_map="auto").eval()
tokenizer = load_processor(adapter, AutoTokenizer)

first = dataset["validation"][0]
asked = [token for token, label in zip(first["input_ids"], first["labels"], strict=True) if label == -100]
inputs = tokenizer.pad({"input_ids": [asked]}, return_tensors="pt").to(reloaded.device)
generated = reloaded.generate(**inputs, max_new_tokens=32, do_sample=False)
answer = tokenizer.decode(generated[0, len(asked) :], skip_special_tokens=True).strip()
print(f"{tokenizer.decode(asked)}\n-> {answer}")
