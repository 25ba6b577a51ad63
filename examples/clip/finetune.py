"""A CLIP in 4 bits learns from captioned pictures: prepare, adapt, train, evaluate, save, reload, use.

python examples/clip/finetune.py
python examples/clip/finetune.py --model ./clip-small --data my_pictures/ --percent 100 --max-steps 20
"""

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import CLIPModel, CLIPProcessor, set_seed

from toolkit import LoraConfig, Trainer, TrainingArguments, load_model, load_processor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="openai/clip-vit-large-patch14", help="a folder, or a name on the hub")
parser.add_argument(
    "--data", default="jxie/coco_captions", help="likewise; metadata.csv in train/, validation/"
)
parser.add_argument("--percent", type=int, default=1, help="how much of the data to take")
parser.add_argument("--output-dir", default="./results")
parser.add_argument("--max-steps", type=int, default=-1, help="to train for less than three epochs")
options = parser.parse_args()
set_seed(42)

# ---- prepare: pictures and captions side by side; they are resized, normalised and tokenised batch by batch

processor = load_processor(options.model, CLIPProcessor)
splits = {name: f"{name}[:{options.percent}%]" for name in ("train", "validation")}
dataset = load_dataset(options.data, split=splits)


def collate(rows):
    """A batch, in which every picture is told from the captions of all others, and every caption from the pictures."""
    batch = processor(
        text=[row["caption"] for row in rows],
        images=[row["image"].convert("RGB") for row in rows],
        padding=True,
        truncation=True,
        return_tensors="pt",
    )
    batch["return_loss"] = True
    return batch


# ---- adapt: a LoRA adapter on queries and keys of the image tower, on weights in 4 bits

model = load_model(options.model, CLIPModel, load_in_4bit=True, device_map="auto")
lora_config = LoraConfig(
    lora_alpha=16,
    lora_dropout=0.1,
    r=64,
    target_modules=[
        "vision_model.encoder.layers.*.self_attn.q_proj",
        "vision_model.encoder.layers.*.self_attn.k_proj",
    ],
)
model.add_adapter(lora_config, adapter_name="lora_adapter")
model.set_adapter("lora_adapter")

# ---- train and evaluate

training_args = TrainingArguments(
    output_dir=options.output_dir,
    evaluation_strategy="epoch",
    learning_rate=5e-5,
    per_device_train_batch_size=4,
    per_device_eval_batch_size=4,
    num_train_epochs=3,
    max_steps=options.max_steps,
    weight_decay=0.01,
    logging_dir="./logs",
    logging_steps=10,
    save_total_limit=3,
    save_steps=500,
    eval_steps=500,
    remove_unused_columns=False,
)
trainer = Trainer(
    model=model,
    args=training_args,
    train_dataset=dataset["train"],
    eval_dataset=dataset["validation"],
    data_collator=collate,
)
trainer.train()
eval_results = trainer.evaluate()
print(f"Evaluation results: {eval_results}")

# ---- save, reload, use

adapter = Path(options.output_dir, "adapter")
model.save_pretrained(adapter)
processor.save_pretrained(adapter)
reloaded = load_model(adapter, CLIPModel, load_in_4bit=True, device_map="auto").eval()
processor = load_processor(adapter, CLIPProcessor)

rows = dataset["validation"].select(range(4))
with torch.no_grad():
    scores = reloaded(**collate(rows).to(reloaded.device)).logits_per_image.softmax(
        dim=-1
    )  # (pictures, captions)
for picture, row in zip(scores, rows, strict=True):
    best = int(picture.argmax())
    print(f"{row['caption']}\n-> {rows[best]['caption']} ({picture[best]:.2f})")
