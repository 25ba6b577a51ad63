"""Wrong inputs that people give: each is answered by an error and a hint, status 2, and nothing is written."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from toolkit_tasks.whisper_asr import recipe

from tests.conftest import Install
from toolkit.cli import main

SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
MODEL, CLIPS = SAMPLE / "model", SAMPLE / "data" / "train"
HEADER = "file_name,text\n"
SHORT = "--set train.max_steps=1 --set data.limit=2 --set eval.before=false"
EXTENDS = "extends: whisper-asr\n"

Prepare = Callable[[], object]


class Case(NamedTuple):
    """What is typed, words of the error and of its hint, and what is prepared in the working folder."""

    typed: str
    error: str
    hint: str
    prepare: Prepare | None = None


# ---- what is prepared ------------------------------------------------------------------------------------


def file(path: str, content: str | bytes = "") -> Prepare:
    def write() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def yaml(content: str | bytes) -> Prepare:
    return file("r.yaml", content)


def folder(path: str) -> Prepare:
    return lambda: Path(path).mkdir()


def pipe(path: str) -> Prepare:
    return lambda: os.mkfifo(path)


def link(path: str, target: str) -> Prepare:
    return lambda: Path(path).symlink_to(target)


def both(first: Prepare, second: Prepare) -> Prepare:
    return lambda: (first(), second())


def lines(count: int) -> str:
    """The lines of a table for as many clips."""
    return HEADER + "".join(f"{name}.flac,hello {name}\n" for name in "abcdef"[:count])


def clips(count: int, metadata: str | bytes | None = None, table: str = "metadata.csv") -> Prepare:
    """`data/`: a.flac, b.flac, ... and a table that may name them."""

    def write() -> None:
        Path("data").mkdir()
        for number in range(count):
            shutil.copy(CLIPS / f"train_00{number}.flac", f"data/{'abcdef'[number]}.flac")
        if metadata is not None:
            file(f"data/{table}", metadata)()

    return write


def model(name: str, content: bytes | Callable[[bytes], bytes] | None) -> Prepare:
    """`broken/`: the sample's model with one file changed, or without it."""

    def write() -> None:
        shutil.copytree(MODEL, "broken")
        path = Path("broken", name)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return write


def other_config(**values: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **values}).encode()


def a_llama() -> None:
    file("llama/config.json", json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))()
    file("llama/model.safetensors")()


def long_clip() -> None:
    soundfile.write("data/b.flac", np.full(16_000 * 40, 0.1), 16_000)


def one_clip_in(*splits: str) -> Prepare:
    """`data/`: a folder a split, with a clip each."""

    def write() -> None:
        for split in splits:
            file(f"data/{split}/metadata.csv", lines(1))()
            shutil.copy(CLIPS / "train_000.flac", f"data/{split}/a.flac")

    return write


# ---- recipes: for `run` and for `check` --------------------------------------------------------------------

TASK = "--task whisper-asr"


def data(error: str, hint: str, prepare: Prepare) -> Case:
    return Case(f"{TASK} --data data", error, hint, prepare)


def broken(error: str, hint: str, prepare: Prepare) -> Case:
    return Case(f"{TASK} --model broken", error, hint, prepare)


def piped(prepare: Prepare, table: str) -> Case:
    return Case(f"{TASK} --data {table}", f"{table}: is no file but a pipe", "copy what it gives", prepare)


def setting(change: str, error: str, hint: str) -> Case:
    return Case(f"{TASK} --set data.limit=4 --set {change}", error, hint)


BAD_FRACTION = "mend the rows, or allow more"
AT_LEAST_ONE_GOOD = "a split needs at least one that can be used"
RECIPES = {
    # which recipe
    "unknown task": Case("--task whisper-asrr", "no task named 'whisper-asrr'", "did you mean 'whisper-asr'?"),
    "empty task": Case("--task ''", "no task named ''", "toolkit tasks"),
    "nothing named": Case("", "no task and no recipe file given", "--task NAME"),
    "a setting with a space": Case(f"{TASK} --set train.max_steps 4", "a recipe file, 4, given", "KEY=VALUE"),
    "a setting as an option": Case(f"{TASK} --lr 1e-4", "unrecognized arguments: --lr", "--set train.learning"),
    "a folder of data": Case("d", "d is a folder, not a recipe file", "--data d", folder("d")),
    "both named": Case(f"r.yaml {TASK}", "and a recipe file, r.yaml, given", "give one", yaml(EXTENDS)),
    "unknown option": Case(f"{TASK} --learning-rate 3", "unrecognized arguments: --learning-rate", "--help"),
    "no such file": Case("nowhere.yaml", "No such file", "give a recipe file"),
    "a folder": Case("r.yaml", "r.yaml is a folder, not a recipe file", "--data r.yaml", folder("r.yaml")),
    "a pipe": Case("r.yaml", "r.yaml: is no file but a pipe", "give a recipe file", pipe("r.yaml")),
    "extends a device": Case("r.yaml", "zero.yaml: is no file but a pipe or a device", "give a recipe file",
                             both(link("zero.yaml", "/dev/zero"), yaml("extends: zero.yaml"))),
    "no yaml": Case("r.yaml", "r.yaml, line 2, column 2", "write YAML", yaml("a: [1, 2\nb: }\n")),
    "a tab": Case("r.yaml", "r.yaml, line 2, column 1", "write YAML", yaml("train:\n\tseed: 1\n")),
    "a key twice": Case("r.yaml", "key 'train' stands twice", "write YAML", yaml("train: {}\ntrain: {}\n")),
    "an empty file": Case("r.yaml", "holds null, not a recipe", "extends", yaml("")),
    "a list": Case("r.yaml", 'holds ["a", "b"], not a recipe', "extends", yaml("- a\n- b\n")),
    "binary": Case("r.yaml", "not text in UTF-8", "give a recipe file", yaml(b"\xff\xfe\x00PNG")),
    "extends nothing": Case("r.yaml", "base.yaml: cannot be read", "recipe file", yaml("extends: base.yaml")),
    "extends itself": Case("r.yaml", "comes back to this file", "extend a task", yaml("extends: r.yaml")),
    "extends a number": Case("r.yaml", "expected a task or a file, found 3", "whisper-asr", yaml("extends: 3")),
    "no model and data": Case("r.yaml", "ships no sample model and data", "--model", yaml("name: mine")),
    # keys and types
    "unknown plugin": Case(f"{TASK} --plugin vit", "no plugin named 'vit'", "toolkit plugins"),
    "a plugin twice": Case(f"{TASK} --plugin whisper", "a name stands twice", "name each plugin once"),
    "plugins as text": Case("r.yaml", 'list of names, found "whisper"', "[whisper]", yaml("plugins: whisper")),
    "unknown key": Case("r.yaml", "unknown key 'modell'", "did you mean 'model'?", yaml(EXTENDS + "modell: x")),
    "unknown key of model": setting("model.nam=x", "model.nam: unknown key 'nam'", "did you mean 'name'?"),
    "unknown key of train": setting("train.sed=1", "train.sed: unknown key 'sed'", "did you mean 'seed'?"),
    "unknown key of adapter": setting("adapter.rr=1", "adapter.rr: unknown key 'rr'", "did you mean 'r'?"),
    "unknown key of eval": setting("eval.befor=1", "unknown key 'befor'", "did you mean 'before'?"),
    "unknown key of whisper": setting("whisper.lang=en", "unknown key 'lang'", "did you mean 'language'?"),
    "text for a number": setting("data.limit=ten", 'valid integer, found "ten"', "without quotes"),
    "a number for text": setting("model.name=3", "model.name: input should be a valid string", "in quotes"),
    "text for a bool": setting("eval.before=maybe", 'valid boolean, found "maybe"', "true or false"),
    "text for a mapping": setting("data.columns=text", 'found "text"', "{key: value}"),
    "text for a list": setting("eval.metrics=wer", 'found "wer"', "write a list"),
    "an adapter as text": setting("adapter=lora", "expected a mapping of settings", "{key: value}"),
    "a choice": setting("data.on_error=stopp", "'quarantine' or 'stop'", "did you mean 'stop'?"),
    "no =": setting("train.seed", "expected KEY=VALUE", "--set train.learning_rate"),
    "no yaml in --set": setting("train.seed=[1", "--set train.seed, line 1", "write YAML"),
    "below a value": setting("train.seed.x=1", 'valid integer, found {"x": 1}', "without quotes"),
    # models
    "no such folder": Case(f"{TASK} --model ./no/such", "./no/such does not exist", "name a model's folder"),
    "no such model": Case(f"{TASK} --model no/such", "the hub cannot be reached", "check name"),
    "an empty name": Case(f"{TASK} --model ''", "model.name: is empty", "name a folder"),
    "a model's file": Case(f"{TASK} --model m.bin", "is a file, not a model's folder", "config.json", file("m.bin")),
    "an empty folder": Case(f"{TASK} --model m", "has no config.json (it is empty)", "save_pretrained", folder("m")),
    "no weights": broken("has no weights in safetensors", "from_config", model("model.safetensors", None)),
    "weights cut off": broken("damaged or cut off", "copy", model("model.safetensors", lambda all: all[:99999])),
    "weights of no bytes": broken("damaged or cut off", "copy", model("model.safetensors", b"")),
    "config that is no JSON": broken("config.json is no JSON", "copy or download", model("config.json", b"x")),
    "config of no settings": broken("config.json holds no settings", "copy", model("config.json", b"[]")),
    "config of another size": broken(
        "weights have another shape", "not of the same model", model("config.json", other_config(d_model=32))
    ),
    "config of more layers": broken(
        "lacks 105 of", "incomplete", model("config.json", other_config(encoder_layers=9))
    ),
    "config of a wrong type": broken(
        "field 'd_model'", "whole", model("config.json", other_config(d_model="big"))
    ),
    "no tokenizer": broken("has no tokenizer", "tokenizer.json", model("tokenizer.json", None)),
    "no processor": broken("Can't load feature extractor", "beside", model("processor_config.json", None)),
    "no Whisper": Case(f"{TASK} --model llama", "holds a LlamaForCausalLM", "of type 'whisper'", a_llama),
    "a revision of a folder": Case(
        f"{TASK} --model {MODEL} --set model.revision=main", "no meaning for the folder", "leave it out"
    ),
    "dtype": setting("model.dtype=int8", "model.dtype: expected auto, float32", "auto suits most"),
    "5 bits": setting("model.quantization=5bit", 'found "5bit"', "did you mean"),
    "bits of a wrong type": setting("model.quantization.load_in_4bit=4", "boolean", "BitsAndBytesConfig"),
    "quantized weights": setting(
        "model.quantization=8bit --set adapter=null", "quantized weights cannot be trained", "--set adapter.r=16"
    ),
    "an adapter on random weights": setting("model.from_config=true", "the base is random", "adapter=null"),
    # adapters
    "targets that match nothing": setting(
        "adapter.target_modules=[q_prj]", "'q_prj' matched no module", "nearest names: q_proj"
    ),
    "targets of a wrong type": setting("adapter.target_modules=3", "should be a valid", "write"),
    "no targets": setting("adapter.target_modules=[]", "say which modules", "all-linear"),
    "no regular expression": setting("adapter.target_modules=(q", "no regular expression", "go in a list"),
    "targets that LoRA cannot adapt": setting(
        "adapter.target_modules=[fc1,layer_norm]", "'layer_norm' matched only what cannot be adapted", "name some of: "
    ),
    "kind": setting("adapter.kind=lorra", "no adapter named", "did you mean 'lora'?"),
    "rank": setting("adapter.r=0", "adapter.r: must be at least 1, found 0", "8 to 64"),
    "dropout": setting("adapter.lora_dropout=2", "at least 0 and below 1, found 2", "0.05"),
    "bias": setting("adapter.bias=alll", "'none', 'all' or 'lora_only'", "did you mean 'all'?"),
    "task_type": setting("adapter.task_type=SEQ_2_SEQ_LM", "is for models of text", "leave adapter.task_type out"),
    # training
    "rate as text": setting("train.learning_rate=fast", 'valid number, found "fast"', "such as 1e-4"),
    "rate in quotes": setting("train.learning_rate='\"1e-4\"'", 'valid number, found "1e-4"', "without quotes"),
    "rate below 0": setting("train.learning_rate=-1e-4", "at least 0, found -0.0001", "default"),
    "rate that is no number": setting("train.learning_rate=.nan", "at least 0, found NaN", "default"),
    "no epochs": setting("train.num_train_epochs=0", "more than 0, found 0", "a fraction: 0.1"),
    "epochs below 0": setting("train.num_train_epochs=-1", "more than 0, found -1", "a fraction: 0.1"),
    "no steps": setting("train.max_steps=0", "at least 1, found 0", "whole epochs"),
    "no batch": setting("train.per_device_train_batch_size=0", "at least 1, found 0", "default"),
    "no batch of evaluation": setting("train.per_device_eval_batch_size=-1", "at least 1, found -1", "default"),
    "no accumulation": setting("train.gradient_accumulation_steps=0", "at least 1, found 0", "default"),
    "workers": setting("train.dataloader_num_workers=-1", "at least 0, found -1", "default"),
    "many workers": setting("train.dataloader_num_workers=100000", "must be at most", "default"),
    "seed": setting("train.seed=-1", "train.seed: must be at least 0, found -1", "default"),
    "a large seed": setting("train.seed=4294967296", "at most 4294967295", "default"),
    "beta": setting("train.adam_beta1=1.0", "at least 0 and below 1", "default"),
    "eval_steps": setting("train.eval_steps=0", "train.eval_steps: must be more than 0", "default"),
    "save_steps": setting("train.save_steps=0", "train.save_steps: must be more than 0", "default"),
    "warmup": setting("train.warmup_steps=-1", "warmup_steps", "TrainingArguments"),
    "optimizer": setting("train.optim=adamm", "train.optim: there is no 'adamm'", "did you mean"),
    "schedule": setting("train.lr_scheduler_type=cosin", "there is no 'cosin'", "did you mean 'cosine'?"),
    "strategy": setting("train.eval_strategy=epochs", "there is no 'epochs'", "did you mean 'epoch'?"),
    "tracker": setting("train.report_to=wandbb", "no tracker named 'wandbb' is installed", "pip install"),
    "smoothing": setting("train.label_smoothing_factor=0.1", "not available in a run", "leave it out"),
    "rows again": setting("train.ignore_data_skip=true", "not available in a run", "leave it out"),
    "patience anew": setting(
        "train.restore_callback_states_from_checkpoint=false", "not available in a run", "leave it out"
    ),
    "fp16": setting("train.fp16=true", "train.fp16: is for GPUs", "bf16"),
    "best by what": setting("train.metric_for_best_model=werr", "no metric is named", "did you mean 'wer'?"),
    # data
    "no such data": Case(f"{TASK} --data ./no/such", "./no/such does not exist", "name a folder, a file"),
    "no such set": Case(f"{TASK} --data no/such", "cannot be loaded from the hub", "HF_HUB_OFFLINE"),
    "an empty source": Case(f"{TASK} --data ''", "data.source: is empty", "name a folder"),
    "a csv file that is a pipe": piped(pipe("x.csv"), "x.csv"),
    "a jsonl file that is a device": piped(link("x.jsonl", "/dev/zero"), "x.jsonl"),
    "a parquet file that is a pipe": piped(pipe("x.parquet"), "x.parquet"),
    "a recording": Case(f"{TASK} --data a.wav", "is no table that can be read", "or a folder", file("a.wav")),
    "an empty data folder": data("holds no data that is recognised (found: nothing)", "metadata.csv", folder("data")),
    "no metadata": data("(found: a.flac, b.flac)", "metadata.csv", clips(2)),
    "missing files": data("2 of 6 rows cannot be used", BAD_FRACTION, clips(4, lines(6))),
    "all files missing": data("'f.flac' does not exist", AT_LEAST_ONE_GOOD, clips(0, lines(6))),
    "out of the folder": data("leads out of the data folder", BAD_FRACTION, clips(2, lines(2) + "../a,x\na.flac,y\n")),
    "no sound": data("b.flac is not audio", BAD_FRACTION, both(clips(4, lines(4)), file("data/b.flac", "x"))),
    "a file of no bytes": data("b.flac is empty", BAD_FRACTION, both(clips(4, lines(4)), file("data/b.flac"))),
    "too long": data("lasts 40 s, longer than", BAD_FRACTION, both(clips(4, lines(4)), long_clip)),
    "semicolons": data("no column 'file_name'", "with commas", clips(2, lines(2).replace(",", ";"))),
    "tabs": data("no column 'file_name'", "with commas", clips(2, lines(2).replace(",", "\t"))),
    "a near name": data("no column 'file_name'", "rename the column 'filename'", clips(1, "filename,text\na.flac,x\n")),
    "no header": data("no column 'file_name'", "call the one that names the files", clips(2, lines(2)[len(HEADER) :])),
    "no rows": data("metadata.csv holds no rows", "at least one row", clips(2, HEADER)),
    "an empty table": data("metadata.csv is empty", "expected a header", clips(2, "")),
    "UTF-16": data("is not text in UTF-8", "save metadata.csv in UTF-8", clips(2, lines(2).encode("utf-16"))),
    "Latin-1": data("is not text in UTF-8", AT_LEAST_ONE_GOOD, clips(2, lines(1).encode() + b"b.flac,\xe9\n")),
    "too many cells": data("4 cells under a header of 2", AT_LEAST_ONE_GOOD, clips(2, lines(1) + "b.flac,a, b, c\n")),
    "a column twice": data("'text' stands twice", "rename", clips(1, "file_name,text,text\na.flac,x,y\n")),
    "a JSON list": data("holds a JSON list", "&& mv lines metadata.jsonl", clips(1, "[{}]", "metadata.jsonl")),
    "no parquet": data("is no parquet file", "write it again", clips(1, "PAR1", "metadata.parquet")),
    "no audio": Case(f"{TASK} --data d.jsonl", "no column for 'audio' in the data (columns: text)",
                     "data.columns.audio", file("d.jsonl", '{"text": "a"}\n')),
    "no text": data("no column for 'text'", "--set data.columns.text=words", clips(1, "file_name,words\na.flac,x\n")),
    "a column that is gone": Case(f"{TASK} --data data --set data.columns.text=said", "no column 'said'",
                                  "name one of them", clips(2, lines(2))),
    "a column nobody reads": setting("data.columns.texts=text", "reads a column 'texts'", "did you mean 'text'?"),
    "no transcripts": data("the transcript is empty", AT_LEAST_ONE_GOOD, clips(2, HEADER + "a.flac,\nb.flac,\n")),
    "too much text": data("makes 1203 tokens", AT_LEAST_ONE_GOOD, clips(2, lines(1) + "b.flac," + "word " * 400)),
    "an empty split": data("test/metadata.csv holds no rows", "leave out one that is empty",
                           both(one_clip_in("train"), file("data/test/metadata.csv", HEADER))),
    "no train split": data("no split 'train'", "call a file or folder", one_clip_in("test")),
    "a single row": data("there are no validation rows", "eval_strategy=no", one_clip_in("train")),
    "config of a folder": Case(f"{TASK} --data data --set data.config=en", "no meaning for the local data",
                               "leave it out", clips(2, lines(2))),
    "no limit": setting("data.limit=0", "data.limit: expected at least 1, found 0", "null takes all"),
    "no samples": setting("eval.max_samples=0", "eval.max_samples: expected at least 1", "null takes all"),
    "fraction": setting("data.validation_fraction=2", "data.validation_fraction: expected", "0.1 sets a tenth"),
    "bad fraction": setting("data.max_bad_fraction=2", "from 0 to 1, found 2", "one bad row in a hundred"),
    "no root": setting("data.root=gone", "data.root: 'gone' is no folder", "/ for any"),
    "a root with NUL": setting("'data.root=\"a\\0b\"'", r"data.root: 'a\x00b' is no folder", "/ for any"),
    "a long root": setting(f"data.root={'x' * 300}", "is no folder", "/ for any"),
    "a root that is a file": Case(f"{TASK} --set data.root=root", "/root' is no folder", "/ for any",
                                  file("root")),
    "streaming": setting("data.streaming=true", "data.streaming: not supported", "leave it out"),
    "cache": setting("cache.max_gb=-1", "cache.max_gb: expected at least 0", "cache.enabled: false"),
    "metric": setting("eval.metrics=[rouge]", "'rouge' is no path", "trust_remote_code"),
    # Whisper
    "no language": setting("whisper.language=klingon", "'klingon' is no language", "give a name or a code"),
    "language as a number": setting("whisper.language=3", "valid string, found 3", "in quotes"),
    "task": setting("whisper.task=transcibe", "'transcribe' or 'translate'", "did you mean 'transcribe'?"),
    "language of an English model": setting("whisper.language=de", "English-only, found 'de'", "multilingual"),
    "translation by an English model": setting("whisper.task=translate", "cannot translate", "multilingual"),
    "beams": setting("whisper.num_beams=0", "whisper.num_beams: must be at least 1", "default"),
    "new tokens": setting("whisper.max_new_tokens=-3", "must be at least 1, found -3", "default"),
    "speed": setting("whisper.speed=3", "0.01 to 0.5, found 3", "0.9 to 1.1"),
    "noise": setting("whisper.noise_snr_db=[20,5]", "the least, then the most", "write [5, 20]"),
    "masks": setting("whisper.time_masks=-1", "must be at least 0, found -1", "default"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("case", RECIPES.values(), ids=RECIPES)
def test_recipes(case: Case, command: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = f"{command} {case.typed}" + (" --output-dir out" if command == "run" else "")
    refused(case._replace(typed=typed), capsys)


def refused(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """Prepare, type, and see what comes of it."""
    if case.prepare is not None:
        case.prepare()
    before = content()
    assert main(shlex.split(case.typed)) == 2
    assert content() == before
    said = capsys.readouterr()
    errors, hints = (lines_of(said.err, f"{what}: ") for what in ("error", "hint"))
    assert case.error in said.err
    assert any(case.hint in hint for hint in hints), hints
    assert len(hints) == len(errors) > 0
    assert "Traceback" not in said.err + said.out


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def content() -> dict[Path, bytes | None]:
    """All that is in the working folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


# ---- all at once ---------------------------------------------------------------------------------------------

ALL_PARTS = """
model: {nam: x}
data: {limit: ten}
train: {learning_rate: fast, sed: 3}
adapter: {r: 0}
whisper: {num_beams: 0}
"""


def test_check_tells_the_faults_of_all_parts(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml(EXTENDS + ALL_PARTS)()
    assert main(["check", "r.yaml"]) == 2
    errors = lines_of(capsys.readouterr().err, "error: ")
    places = ["model.nam", "data.limit", "train.learning_rate", "train.sed", "adapter.r", "whisper.num_beams"]
    assert [error.removeprefix("error: ").split(":")[0] for error in errors] == places


def test_run_tells_the_faults_of_settings_and_of_plugins(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(f"run {TASK} --set train.sed=1 --set whisper.num_beams=0 --set adapter.r=0")) == 2
    errors = lines_of(capsys.readouterr().err, "error: ")
    assert sorted(error.split(":")[1].strip() for error in errors) == [
        "adapter.r",
        "train.sed",
        "whisper.num_beams",
    ]


def test_a_part_that_is_right_counts_although_another_is_wrong(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips(3, lines(3))()
    yaml(EXTENDS + f"data: {{source: {Path('data').absolute()}, limt: 2}}\n")()
    assert main(["check", "r.yaml", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert [fault["message"] for fault in document["faults"]] == ["data.limt: unknown key 'limt'"]
    assert document["rows"]["total"] == 3


# ---- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished") / "run"
    assert main(shlex.split(f"run {TASK} {SHORT} --output-dir {place}")) == 0
    return place


def without_a_model() -> None:
    summary = json.loads(Path("run/summary.json").read_text())
    file("run/summary.json", json.dumps({**summary, "status": "interrupted"}))()
    shutil.rmtree("run/model")


DEEP = "[" * 100_000


def changed(name: str, **values: Any) -> Prepare:
    """A file of the run with other values, without those that are None now."""

    def write() -> None:
        content = {**json.loads(Path("run", name).read_text()), **values}
        file(f"run/{name}", json.dumps({key: value for key, value in content.items() if value is not None}))()

    return write


def cut_off(path: str) -> Prepare:
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:1000])


def pickled(path: str) -> Prepare:
    def write() -> None:
        torch.save(load_file(path), Path(path).with_suffix(".bin"))
        Path(path).unlink()

    return write


def elsewhere(path: str) -> Prepare:
    return lambda: Path(path).symlink_to(Path(path).rename("secret").absolute())


def here(path: str) -> Prepare:
    """The working folder holds what is in another."""
    return lambda: shutil.copytree(path, ".", dirs_exist_ok=True)


def moved(path: str) -> Prepare:
    def write() -> None:
        recipe_file = Path("run/recipe.yaml")
        recipe_file.write_text(recipe_file.read_text().replace(path, "/gone"))

    return write


ADAPTER = "run/model/adapter_model.safetensors"
UNFINISHED = "holds no trained model yet: the run is interrupted"
RUNS = {
    "another run": Case(f"run {TASK} --output-dir run", "run holds another run", "toolkit resume run"),
    "a file": Case(f"run {TASK} --output-dir out", "is no empty folder", "--output-dir", file("out")),
    "a full folder": Case(f"run {TASK} --output-dir out", "is no empty folder", "--output-dir", file("out/x")),
    "below a file": Case(f"run {TASK} --output-dir out/x", "Not a directory", "--output-dir", file("out")),
    "a long name": Case(f"run {TASK} --output-dir {'x' * 300}", "File name too long", "--output-dir"),
    "no such user": Case(f"run {TASK} --output-dir ~nobody-here/x", "there is no such user", "in full"),
    "an empty name": Case(f"run {TASK} --output-dir ''", "--output-dir: the name is empty", "--help"),
    "a search's empty name": Case(
        f"search {TASK} --space train.seed=1,2 --output-dir ''", "--output-dir: the name is empty", "--help"
    ),
    "not to be written": Case(f"run {TASK} --output-dir /proc/out", "/proc/out cannot be written", "rights"),
    "no folder to resume": Case(f"run {TASK} --resume", "no folder was named", "--output-dir"),
    "a run for a recipe": Case("run run", "run is the folder of a run", "toolkit resume run"),
    "another recipe": Case(f"run {TASK} --set train.seed=7 --output-dir run --resume", "another recipe", "resume"),
    "eval nowhere": Case("eval nowhere", "nowhere does not exist", "runs/NAME"),
    "eval no run": Case("eval d", "d is no run", "toolkit run", folder("d")),
    "resume nowhere": Case("resume nowhere", "nowhere does not exist", "runs/NAME"),
    "resume no run": Case("resume d", "d is no run", "toolkit run", folder("d")),
    "resume a file": Case("resume f", "f is a file, not a run's folder", "runs/NAME", file("f")),
    "resume an empty name": Case("resume ''", "the run's folder is empty", "runs/NAME", here("run")),
    "eval an empty name": Case("eval ''", "the run's folder is empty", "runs/NAME", here("run")),
    "predict nowhere": Case("predict nowhere a.wav", "nowhere does not exist", "runs/NAME"),
    "export nowhere": Case("export nowhere --to x", "nowhere does not exist", "runs/NAME"),
    "eval unfinished": Case("eval run", UNFINISHED, "toolkit resume run", without_a_model),
    "predict unfinished": Case("predict run a.wav", UNFINISHED, "toolkit resume run", without_a_model),
    "export unfinished": Case("export run --to x", UNFINISHED, "toolkit resume run", without_a_model),
    "eval missing data": Case("eval run --data ./no", "./no does not exist", "name a folder"),
    "eval without text": Case("eval run --data d.jsonl", "no column for 'text'", "data.columns.text",
                              file("d.jsonl", '{"audio": "a.wav"}\n')),
    "predict nothing": Case("predict run", "required: INPUT", "--help"),
    "predict text": Case("predict run a.txt", "a.txt is not audio", "WAV, FLAC", file("a.txt", "hello")),
    "predict no bytes": Case("predict run a.wav", "a.wav is empty", "copy", file("a.wav")),
    "predict a missing file": Case("predict run a.wav", "a.wav does not exist", "check the path"),
    "predict a folder": Case("predict run d", "d is no file", "check the path", folder("d")),
    "predict a good and a bad one": Case(f"predict run {CLIPS}/train_000.flac a.wav", "a.wav does not exist", "path"),
    "export to an empty name": Case("export run --to ''", "folder to write is empty", "--to"),
    "export to a full folder": Case("export run --to x", "is no empty folder", "--to", file("x/y")),
    "export to a file": Case("export run --to x", "is no empty folder", "--to", file("x")),
    "export below a file": Case("export run --to f/x", "Not a directory", "--to", file("f")),
    "export to a long name": Case(f"export run --to {'x' * 300}", "File name too long", "--to"),
    "export to nobody": Case("export run --to ~nobody-here/x", "there is no such user", "in full"),
    "export into the run": Case("export run --to run/x", "in the run's own folder", "outside"),
    "export nowhere said": Case("export run", "required: --to", "--help"),
    "a broken recipe": Case("eval run", "run/recipe.yaml, line 1", "write YAML", file("run/recipe.yaml", "a: [")),
    "a broken summary": Case("eval run", "run/summary.json cannot be read", "remove it: toolkit resume run",
                             file("run/summary.json", "{")),
    "resume with a broken summary": Case("resume run", "run/summary.json cannot be read", "toolkit resume run writes",
                                         file("run/summary.json", "{")),
    "a broken summary of no run": Case(f"run {TASK} --output-dir out", "is no empty folder", "--output-dir",
                                       file("out/summary.json", "{")),
    "a summary of nothing": Case("eval run", "it holds no mapping", "copy", file("run/summary.json", "[]")),
    "a summary without its end": Case("export run --to x --merge", "after: field required", "copy",
                                      changed("summary.json", after=None)),
    "a summary without training": Case("eval run", "train: field required", "copy",
                                       changed("summary.json", status="failed", train=None)),
    "a summary nested deep": Case("eval run", "summary.json cannot be read", "copy", file("run/summary.json", DEEP)),
    "an environment nested deep": Case("eval run", "environment.json cannot", "copy",
                                       file("run/environment.json", DEEP)),
    "a list for a base model": Case("eval run", "base_model: input should be", "copy",
                                    changed("environment.json", base_model=[])),
    "a number for a hash": Case("eval run", "base_model.sha256: input should be", "copy",
                                changed("environment.json", base_model={"sha256": 3})),
    "no columns": Case(f"predict run {CLIPS}/train_000.flac", "columns: input should be", "copy",
                       changed("environment.json", columns=[None])),
    "a broken environment": Case("eval run", "environment.json cannot", "copy", file("run/environment.json", "x")),
    "an adapter cut off": Case("eval run", "damaged or incomplete", "toolkit run", cut_off(ADAPTER)),
    "export an adapter cut off": Case("export run --to x", "damaged or incomplete", "copy", cut_off(ADAPTER)),
    "an adapter that is gone": Case("eval run", "damaged or incomplete", "copy", lambda: Path(ADAPTER).unlink()),
    "a broken adapter's settings": Case("eval run", "damaged or incomplete", "copy",
                                        file("run/model/adapter_config.json", "{")),
    "a pickle for an adapter": Case("eval run", "damaged or incomplete", "copy", pickled(ADAPTER)),
    "a model's file elsewhere": Case("export run --to x", "tokenizer_config.json is a link out", "put the file itself",
                                     elsewhere("run/model/tokenizer_config.json")),
    "a base model that has moved": Case("eval run", "base model is gone", "recipe.yaml", moved(str(MODEL))),
    "data that have moved": Case("eval run", "/gone does not exist", "name a folder", moved(str(SAMPLE / "data"))),
    "no such command": Case("rn", "there is no command 'rn'", "did you mean 'run'?"),
}  # fmt: skip


@pytest.mark.parametrize("case", RUNS.values(), ids=RUNS)
def test_runs(case: Case, finished: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, "run")
    refused(case, capsys)


# ---- plugins -------------------------------------------------------------------------------------------------

PLUGINS = {
    "missing module": ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
    "no Python": ("def broken(:", "SyntaxError"),
    "misspelt hook": (
        "from toolkit import hookimpl\n@hookimpl\ndef toolkit_colator(): ...",
        "toolkit_colator",
    ),
    "undecorated hook": ("def toolkit_loss(): ...", "hook 'toolkit_loss' lacks @hookimpl"),
}


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("source", "error"), PLUGINS.values(), ids=PLUGINS)
def test_plugins_that_cannot_be_loaded(
    source: str, error: str, command: str, install: Install, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("toolkit-broken", plugins={"broken": "toolkit_broken"}, modules={"toolkit_broken": source})
    case = Case(f"{command} {TASK} --plugin broken", error, "repair or reinstall toolkit-broken")
    refused(case, capsys)
