"""A Whisper in 4 bits learns from transcribed speech: prepare, adapt, train, evaluate, save, reload, use.

python examples/whisper/finetune.py
python examples/whisper/finetune.py --model ./whisper-tiny --data my_recordings/ --max-steps 20
"""

import argparse
import csv
import io
from pathlib import Path

import soundfile
import torch
from datasets import Audio, load_dataset
from torchaudio.functional import resample
from transformers import WhisperForConditionalGeneration, WhisperProcessor, set_seed

from toolkit import LoraConfig, Trainer, TrainingArguments, load_model, load_processor

COMMON_VOICE = "fixie-ai/common_voice_17_0"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="openai/whisper-large", help="a folder, or a name on the hub")
parser.add_argument("--data", default=COMMON_VOICE, help="likewise; metadata.csv in train/, validation/")
parser.add_argument("--language", default="en", help="what is spoken; on the hub, the data's configuration")
parser.add_argument("--output-dir", default="./results")
parser.add_argument("--max-steps", type=int, default=-1, help="to train for less than three epochs")
options = parser.parse_args()
set_seed(42)

# ---- prepare: rows of sound and text; features are made batch by batch, for all at once they would fill a disk

model = load_model(options.model, WhisperForConditionalGeneration, load_in_4bit=True, device_map="auto")
processor = load_processor(options.model, WhisperProcessor)
if getattr(model.generation_config, "is_multilingual", False):
    processor.tokenizer.set_prefix_tokens(language=options.language, task="transcribe")
    model.generation_config.language, model.generation_config.task = options.language, "transcribe"

if Path(options.data).is_dir():
    dataset = {
        table.parent.name: [
            {
                "audio": {"path": table.parent / row["file_name"], "bytes": None},
                "sentence": row.get("text") or row["transcription"],
            }
            for row in csv.DictReader(table.open(encoding="utf-8"))
        ]
        for table in Path(options.data).glob("*/metadata.csv")
    }
else:
    splits = {"train": "train", "validation": "validation"}
    dataset = load_dataset(options.data, options.language, split=splits)
    dataset = dataset.cast_column("audio", Audio(decode=False))


def features_of(rows):
    """Log-mel spectrograms (rows, mels, frames), as the model was trained on."""
    rate, sounds = processor.feature_extractor.sampling_rate, []
    for audio in (row["audio"] for row in rows):
        file = io.BytesIO(audio["bytes"]) if audio["bytes"] else audio["path"]
        samples, rate_of_file = soundfile.read(file, dtype="float32", always_2d=True)
        sounds.append(resample(torch.from_numpy(samples.mean(axis=1)), rate_of_file, rate).numpy())
    return processor(sounds, sampling_rate=rate, return_tensors="pt").input_features


def collate(rows):
    """A batch; the model itself puts the start token before the labels, and padding is not learnt."""
    texts = processor.tokenizer([row["sentence"] for row in rows], padding=True, return_tensors="pt")
    labels = texts.input_ids.masked_fill(texts.attention_mask == 0, -100)[:, 1:]
    return {"input_features": features_of(rows), "labels": labels}


# ---- adapt: a LoRA adapter on queries and keys of the decoder, on weights in 4 bits

lora_config = LoraConfig(
    lora_alpha=16,
    lora_dropout=0.1,
    r=64,
    target_modules=["decoder.layers.*.self_attn.q_proj", "decoder.layers.*.self_attn.k_proj"],
)
model.add_adapter(lora_config, adapter_name="lora_adapter")
model.set_adapter("lora_adapter")

# ---- train and evaluate

training_args = TrainingArguments(
    output_dir=options.output_dir,
    evaluation_strategy="epoch",
    learning_rate=1e-5,
    per_device_train_batch_size=8,
    per_device_eval_batch_size=8,
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
    tokenizer=processor,
)
trainer.train()
eval_results = trainer.evaluate()
print(f"Evaluation results: {eval_results}")

# ---- save, reload, use

adapter = Path(options.output_dir, "adapter")
model.save_pretrained(adapter)
processor.save_pretrained(adapter)
reloaded = load_model(adapter, WhisperForConditionalGeneration, load_in_4bit=True, device_map="auto").eval()
processor = load_processor(adapter, WhisperProcessor)

first = dataset["validation"][0]
tokens = reloaded.generate(input_features=features_of([first]).to(reloaded.device))
[transcription] = processor.batch_decode(tokens, skip_special_tokens=True)
print(f"{first['sentence']}\n-> {transcription.strip()}")
