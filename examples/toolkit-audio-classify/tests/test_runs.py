"""What a stranger relies on: the plugin keeps the contract, and the task learns, predicts and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toolkit.testing import Project, check_plugin
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)

from toolkit_audio_classify.sounds import CLASSES, RATE, Sounds, write

SHORT = ("--set", "train.max_steps=1", "--set", "eval.max_samples=4", "--set", "data.limit=8")


def test_the_plugin_keeps_the_contract() -> None:
    check_plugin("audio-classify")


def test_the_sample_is_learnt_and_the_model_is_used(project: Project) -> None:
    run = project.run("run", "--task", "audio-classify", "--output-dir", "first").assert_finished()
    for metric in ("accuracy", "macro_f1"):
        assert run.summary["before"][metric] < 0.5 < 0.9 < run.summary["after"][metric]

    write(project.folder / "sounds")
    files = [str(project.folder / "sounds" / "test" / f"{name}_{n}.wav") for n, name in enumerate(CLASSES)]
    answer = project.run("predict", "first", *files, "--json").assert_finished().json
    assert answer["predictions"] == [
        {"input": file, "output": name} for file, name in zip(files, CLASSES, strict=True)
    ]


def test_the_sounds_written_are_the_sounds_computed(project: Project) -> None:
    write(project.folder / "sounds")
    losses = []
    for source in ("sample", "sounds"):
        run = project.run(
            "run", "--task", "audio-classify", "--data", source, "--output-dir", f"of-{source}", *SHORT
        )
        losses.append(run.assert_finished().summary["after"]["loss"])
    assert abs(losses[0] - losses[1]) < 1e-3  # files have 16 bits


def nano_wav2vec2(folder: Path) -> None:
    """One that hears the samples themselves."""
    config = Wav2Vec2Config(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        conv_dim=(16, 16),
        conv_kernel=(10, 8),
        conv_stride=(5, 8),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)


def nano_whisper(folder: Path) -> None:
    """One whose features have another name."""
    config = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=20,
        max_source_positions=50,
    )
    WhisperForAudioClassification(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=1).save_pretrained(folder)


@pytest.mark.parametrize("make", [nano_wav2vec2, nano_whisper])
def test_models_of_other_kinds_train_too(project: Project, make: Callable[[Path], None]) -> None:
    torch.manual_seed(0)
    make(project.folder / "model")
    classes = f"audio-classify.classes=[{', '.join(CLASSES)}]"
    run = project.run("run", "--task", "audio-classify", "--model", "model", "--set", classes, *SHORT)
    assert run.assert_finished().summary["train"]["steps"] == 1


def test_settings_that_cannot_be_are_refused(project: Project) -> None:
    refused = project.run("run", "--task", "audio-classify", "--set", "audio-classify.classes=[dog, dog]")
    refused.assert_refused("audio-classify.classes: expected two different names or more")
    refused = project.run("run", "--task", "audio-classify", "--set", "audio-classify.seconds=0")
    refused.assert_refused("audio-classify.seconds: must be at least 0.1, found 0")


def test_rows_that_cannot_be_used_are_found_and_set_aside(project: Project) -> None:
    write(project.folder / "sounds")
    folder = project.folder / "sounds" / "test"
    good = [
        {"audio": str(file), "label": file.stem.partition("_")[0]} for file in sorted(folder.glob("*.wav"))
    ]
    bad = [{**good[0], "label": "song"}, {**good[0], "audio": str(project.write("broken.wav", b"RIFF"))}]
    data = project.write("rows.jsonl", [*good, *bad])

    found = project.run("check", "--task", "audio-classify", "--data", data, "--json")
    assert "the label 'song' is no class" in found.out
    refused = project.run("run", "--task", "audio-classify", "--data", data, *SHORT[:4])
    refused.assert_refused("the recording cannot be read")
    allowed = ["--set", "data.max_bad_fraction=0.1", "--set", "train.num_train_epochs=1"]
    run = project.run("run", "--task", "audio-classify", "--data", data, *allowed).assert_finished()
    assert run.summary["rows"]["quarantined"] == 2


def test_sounds_are_the_same_each_time_and_others_in_each_row() -> None:
    sounds = Sounds("train")
    one, again, other = (sounds[number]["audio"]["array"] for number in (4, 4, 8))
    assert (one == again).all()
    assert (one != other).any()
    assert [sounds[number]["label"] for number in range(4)] == [*CLASSES]
