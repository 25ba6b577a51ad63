from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from toolkit_whisper.audio import load, name_of, opened, resampled

from toolkit import DataError

Write = Callable[..., Path]


def sine(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> Any:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("subtype", "error"),
    [
        ("PCM_U8", 2**-7),
        ("PCM_16", 2**-15),
        ("PCM_24", 2**-23),
        ("PCM_32", 1e-7),
        ("FLOAT", 1e-7),
        ("DOUBLE", 1e-7),
    ],
)
def test_any_sample_format_is_read_into_the_same_range(write: Write, subtype: str, error: float) -> None:
    path = write("clip.wav", sine(16_000), subtype=subtype)
    audio = load(path, 16_000, max_seconds=1)
    assert audio.dtype == torch.float32
    assert audio.shape == (8_000,)
    assert np.abs(audio.numpy() - sine(16_000)).max() <= error


def test_channels_are_averaged(write: Write) -> None:
    path = write("stereo.wav", np.stack([sine(16_000), 0.2 * np.ones(8_000)], axis=1), subtype="FLOAT")
    expected = (sine(16_000) + 0.2) / 2
    assert load(path, 16_000, 1).numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["clip.flac", "clip.ogg", "clip.mp3"])
def test_compressed_files_are_read_as_soundfile_reads_them(write: Write, name: str) -> None:
    path = write(name, sine(16_000))
    expected, _ = soundfile.read(path, dtype="float32")
    assert load(path, 16_000, 1).numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_usual_rates_are_resampled_as_torchaudio_does(rate: int) -> None:
    audio = torch.from_numpy(sine(rate)).float()
    assert torch.equal(resampled(audio, rate, 16_000), torchaudio.functional.resample(audio, rate, 16_000))


@pytest.mark.parametrize("rate", [1_000, 4_000, 8_000, 11_127, 22_255, 44_101, 192_000])
def test_any_rate_gives_the_same_sound(rate: int) -> None:
    audio = resampled(torch.from_numpy(sine(rate, seconds=2, hertz=200)).float(), rate, 16_000).numpy()
    assert len(audio) == 32_000
    true = 0.5 * np.sin(2 * np.pi * 200 * np.arange(32_000) / 16_000)
    assert np.abs(audio - true)[800:-800].max() < 0.03


def test_a_rate_next_to_the_models_is_off_by_less_than_a_thousandth_and_keeps_its_length() -> None:
    audio = resampled(torch.from_numpy(sine(16_001, seconds=10, hertz=100)).float(), 16_001, 16_000).numpy()
    assert len(audio) == 160_000
    cycles = np.sum((audio[:-1] < 0) & (audio[1:] >= 0))
    assert cycles == pytest.approx(1_000, abs=1)


def test_bytes_of_a_file_are_read_like_the_file(write: Write) -> None:
    path = write("clip.flac", sine(16_000))
    row = {"bytes": path.read_bytes(), "path": "clip.flac"}
    assert torch.equal(load(row, 16_000, 1), load(path, 16_000, 1))
    assert torch.equal(load({"bytes": None, "path": str(path)}, 16_000, 1), load(path, 16_000, 1))


@pytest.mark.parametrize(
    "array",
    [
        [0.5, -0.25, 0.0],
        np.array([0.5, -0.25, 0.0]),
        np.array([[0.7, -0.5, 0.25], [0.3, 0.0, -0.25]], dtype=np.float32),
        np.array([16_384, -8_192, 0], dtype=np.int16),
        torch.tensor([0.5, -0.25, 0.0]),
    ],
)
def test_arrays_are_taken_as_they_are(array: Any) -> None:
    audio = load({"array": array, "sampling_rate": 16_000}, 16_000, 1)
    assert audio.tolist() == pytest.approx([0.5, -0.25, 0.0])


def test_a_clip_as_long_as_the_window_is_allowed_and_one_sample_more_is_not(write: Write) -> None:
    exact = write("exact.wav", np.zeros(44_100), rate=44_100)
    assert load(exact, 16_000, max_seconds=1).shape == (16_000,)
    with pytest.raises(DataError, match=r"more\.wav lasts 1\.00002 s, longer than the window of 1 s"):
        load(write("more.wav", np.zeros(44_101), rate=44_100), 16_000, max_seconds=1)


def test_a_long_clip_is_named_with_its_length(write: Write) -> None:
    path = write("clip.wav", np.zeros(413_00), rate=1_000)
    with pytest.raises(DataError) as caught:
        load(path, 16_000, max_seconds=30)
    assert caught.value.message == f"{path} lasts 41.3 s, longer than the window of 30 s"
    assert caught.value.hint is not None


def test_files_that_cannot_be_used_say_why(write: Write, tmp_path: Path) -> None:
    def reason(source: Any) -> str:
        with pytest.raises(DataError) as caught:
            load(source, 16_000, 30)
        return caught.value.message

    notes, nothing, folder = tmp_path / "notes.txt", tmp_path / "nothing.wav", tmp_path / "folder"
    notes.write_text("buy milk")
    nothing.touch()
    folder.mkdir()
    assert reason(str(notes)).startswith(f"{notes} is not audio that can be read")
    assert reason(notes.rename(tmp_path / "notes.raw")).endswith("notes.raw is not audio that can be read")
    assert reason(nothing) == f"{nothing} is empty"
    assert reason({"bytes": b"", "path": "a.wav"}) == "a.wav is empty"
    assert reason({"bytes": b"buy milk", "path": "a.wav"}).startswith("a.wav is not audio that can be read")
    assert reason(tmp_path / "gone.wav") == f"{tmp_path / 'gone.wav'} does not exist"
    assert reason(folder) == f"{folder} is no file"
    assert reason(write("short.wav", np.zeros(0))) == f"{tmp_path / 'short.wav'} holds no samples"
    nan = write("nan.wav", np.array([0.0, np.nan]), subtype="FLOAT")
    assert reason(nan) == f"{nan} holds samples that are no numbers (NaN or infinite)"
    huge = write("huge.wav", np.array([0.0, 1e300]), subtype="DOUBLE")
    assert reason(huge).startswith(f"{huge} holds samples that are no numbers")
    assert reason(7) == "audio of type int cannot be read"
    assert reason({"array": [0.0]}).endswith("without its sampling_rate")
    assert "holds no samples" in reason({"array": [], "sampling_rate": 8_000})
    assert "holds no samples" in reason({"array": np.zeros((2, 3, 4)), "sampling_rate": 8_000})
    assert "of bool" in reason({"array": np.array([True]), "sampling_rate": 8_000})


def with_samples(flac: bytes, count: int) -> bytes:
    """A FLAC file whose header claims `count` samples: 36 bits that begin half-way into byte 21."""
    head = bytearray(flac)
    head[21] = (head[21] & 0xF0) | (count >> 32)
    head[22:26] = (count & 0xFFFF_FFFF).to_bytes(4, "big")
    return bytes(head)


def test_headers_that_lie_are_not_believed(write: Write) -> None:
    flac = write("clip.flac", sine(16_000)).read_bytes()
    assert with_samples(flac, 8_000) == flac
    endless = {"bytes": with_samples(flac, 0), "path": "stream.flac"}
    with pytest.raises(DataError, match=r"stream\.flac does not say how long it is"):
        load(endless, 16_000, 30)
    with pytest.raises(DataError, match=r"lie\.flac lasts 4.29\d*e\+06 s"):
        load({"bytes": with_samples(flac, 2**36 - 1), "path": "lie.flac"}, 16_000, 30)
    wav = bytearray(write("clip.wav", sine(16_000)).read_bytes())
    wav[24:28] = (2**31 - 1).to_bytes(4, "little")
    with pytest.raises(DataError, match=r"rate\.wav says its sampling rate is 2147483647 Hz"):
        load({"bytes": bytes(wav), "path": "rate.wav"}, 16_000, 30)


def test_a_file_that_breaks_off_is_refused_while_it_is_read(write: Write) -> None:
    flac = write("clip.flac", sine(16_000, seconds=5)).read_bytes()
    with opened({"bytes": flac[: len(flac) // 2], "path": "half.flac"}) as recording:
        assert recording.samples == 80_000
        with pytest.raises(DataError, match=r"half\.flac breaks off"):
            list(recording.blocks)


def test_long_files_are_read_in_blocks(write: Write) -> None:
    path = write("long.wav", np.tile(sine(16_000), (2, 80)).T)
    with opened(path) as recording:
        blocks = list(recording.blocks)
    assert len(blocks) > 2
    assert sum(len(block) for block in blocks) == recording.samples == 640_000


def test_names_in_errors() -> None:
    assert name_of(Path("a/b.wav")) == "a/b.wav"
    assert name_of({"bytes": b"", "path": "b.wav"}) == "b.wav"
    assert name_of({"array": [], "path": None}) == "audio without a path"


@pytest.mark.parametrize("name", ["long.wav", "long.flac", "long.ogg", "memory"])
def test_a_part_of_a_long_file(write: Write, name: str) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100 * 4)
    if name == "memory":
        whole, path = samples.astype(np.float32), {"array": samples, "sampling_rate": 44_100}
    else:
        path = write(name, samples, 44_100)
        whole, _ = soundfile.read(path, dtype="float32")
    for start, end in ((0.0, 1.0), (1.25, 2.0), (3.5, None), (3.5, 4.05), (0.0, None)):
        last = len(whole) if end is None else round(end * 44_100)
        expected = whole[round(start * 44_100) : last]
        found = load(path, 44_100, 30, start, end)
        assert found.numpy() == pytest.approx(expected, abs=1e-6)


def test_no_more_of_a_long_file_is_read_than_the_part(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("long.wav", np.zeros(16_000 * 60))
    asked: list[int] = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, frames, **kw: (asked.append(frames), read(self, frames, **kw))[1],
    )
    assert len(load(path, 16_000, 30, 40.0, 41.5)) == 24_000
    assert asked == [24_000, 0]


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (4.0, None, r"long\.wav lasts 4 s, the row's part of it is from 4 to 4 s"),
        (9.0, 10.0, r"long\.wav lasts 4 s, the row's part of it is from 9 to 10 s"),
        (0.0, 4.2, r"is from 0 to 4\.2 s"),
        (2.0, 1.0, r"ends at 1 s and starts at 2 s"),
        (0.0, 3.5, r"lasts 3\.5 s, longer than the window of 3 s"),
    ],
)
def test_parts_that_cannot_be_had(write: Write, start: float, end: Any, reason: str) -> None:
    path = write("long.wav", np.zeros(64_000))
    with pytest.raises(DataError, match=reason):
        load(path, 16_000, 3, start, end)
