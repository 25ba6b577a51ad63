"""Speed against torchaudio's own, noise by its power, masks by hand and by their distribution."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import toolkit_whisper
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st
from toolkit_whisper.augment import Augment, at_speed, mask, with_noise
from toolkit_whisper.collate import Collator
from toolkit_whisper.labels import set_prompt
from toolkit_whisper.prepare import Prepare
from toolkit_whisper.settings import WhisperSettings

from toolkit import Recipe, Row

Clip = Callable[..., torch.Tensor]
ALL = WhisperSettings(speed=0.1, noise_snr_db=(5, 20), time_masks=2, frequency_masks=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row(audio: torch.Tensor, window: int = 32_000) -> Row:
    return {"audio": audio, "window": window, "labels": [1, 2], "text": "a", "row_id": 0}


@pytest.mark.parametrize("hundredths", [50, 90, 93, 107, 110, 150])
def test_speed_is_torchaudios(clip: Clip, hundredths: int) -> None:
    expected, _ = torchaudio.functional.speed(clip(1), 16_000, hundredths / 100)
    found = at_speed(clip(1), hundredths)
    assert len(found) == -(-1_600_000 // hundredths)
    assert torch.equal(found[: len(expected)], expected[: len(found)])


def test_no_change_of_speed_is_no_change(clip: Clip) -> None:
    assert torch.equal(at_speed(clip(1), 100), clip(1))


def test_speeds_are_drawn_evenly_from_the_hundredths() -> None:
    augment, sound = Augment(WhisperSettings(speed=0.02)), torch.zeros(98 * 99 * 101 * 102 // 100)
    lengths = Counter(len(augment(row(sound, 10**9), generator(seed))["audio"]) for seed in range(500))
    speeds = sorted(round(100 * len(sound) / length) for length in lengths)
    assert speeds == [98, 99, 100, 101, 102]
    assert min(lengths.values()) > 60


def test_a_clip_that_would_be_longer_than_the_window_keeps_its_speed(clip: Clip) -> None:
    augment = Augment(WhisperSettings(speed=0.1))
    found = [augment(row(clip(1.95)), generator(seed))["audio"] for seed in range(40)]
    assert max(map(len, found)) <= 32_000
    assert {len(one) < 31_200 for one in found} == {True, False}
    kept = [one for one in found if len(one) == 31_200]
    assert all(torch.equal(one, clip(1.95)) for one in kept)


@given(snr_db=st.floats(-20, 60), seed=st.integers(0, 100), loudness=st.sampled_from([1e-4, 0.1, 1.0]))
def test_noise_is_exactly_as_far_below_the_sound_as_asked(snr_db: float, seed: int, loudness: float) -> None:
    sound = loudness * torch.sin(torch.arange(8_000) * 0.05)
    noise = (with_noise(sound, snr_db, generator(seed)) - sound).double()
    measured = 10 * (sound.double().square().mean() / noise.square().mean()).log10()
    assert float(measured) == pytest.approx(snr_db, abs=0.05)


def test_noise_is_drawn_from_the_range_and_is_white(clip: Clip) -> None:
    augment = Augment(WhisperSettings(noise_snr_db=(10, 20)))
    sound, found = clip(1), []
    for seed in range(60):
        noise = augment(row(sound), generator(seed))["audio"] - sound
        found.append(float(10 * (sound.square().mean() / noise.square().mean()).log10()))
        assert abs(float((noise[1:] * noise[:-1]).mean() / noise.square().mean())) < 0.04
    assert 9.95 < min(found) < 11
    assert 19 < max(found) < 20.05


def test_silence_gets_no_noise() -> None:
    assert not with_noise(torch.zeros(100), 10, generator()).any()


def test_masks_by_hand() -> None:
    """Of 8 frames the clip touches 6; four bands; masks of up to 3 frames and up to 2 bands."""
    settings = WhisperSettings(
        time_masks=1, time_mask_seconds=0.03, frequency_masks=1, frequency_mask_bands=2
    )
    features = torch.arange(32.0).reshape(4, 8)
    mean = features[:, :6].mean()
    masks = torch.tensor(
        [[0.5, 0.99], [0.4, 0.0]]
    )  # 2 of 0..3 frames, at the clip's end; 1 of 0..2 bands, the first
    expected = features.clone()
    expected[:, 4:6] = expected[0, :6] = mean
    assert torch.equal(mask(features, 6, masks, settings), expected)
    assert torch.equal(features, torch.arange(32.0).reshape(4, 8))


def test_widths_and_places_of_masks_are_each_as_likely_as_another() -> None:
    settings = WhisperSettings(time_masks=1, time_mask_seconds=0.03)
    features, widths, places = torch.arange(80.0).reshape(8, 10), Counter[int](), Counter[int]()
    for seed in range(2_000):
        masks = Augment(settings)(row(torch.zeros(5)), generator(seed))["masks"]
        changed = (mask(features, 10, masks, settings) != features).all(dim=0).nonzero().flatten().tolist()
        widths[len(changed)] += 1
        if len(changed) == 3:
            places[changed[0]] += 1
            assert changed == list(range(changed[0], changed[0] + 3))
    assert sorted(widths) == [0, 1, 2, 3]
    assert sorted(places) == list(range(8))
    assert all(count == pytest.approx(500, rel=0.2) for count in widths.values())
    assert all(count == pytest.approx(62, rel=0.5) for count in places.values())


def test_a_mask_is_no_wider_than_the_clip() -> None:
    settings = WhisperSettings(time_masks=1, frequency_masks=1)
    features = torch.arange(12.0).reshape(3, 4)
    found = mask(features, 2, torch.full((2, 2), 0.999), settings)
    assert found[:, :2].unique().tolist() == [features[:, :2].mean()]
    assert torch.equal(found[:, 2:], features[:, 2:])


def test_the_generator_decides_everything_and_labels_stay(clip: Clip) -> None:
    augment = pickle.loads(pickle.dumps(Augment(ALL)))
    one, again, other = (augment(row(clip(1)), generator(seed)) for seed in (3, 3, 4))
    torch.rand(7)
    assert torch.equal(one["audio"], again["audio"])
    assert torch.equal(one["masks"], again["masks"])
    assert not torch.equal(one["masks"], other["masks"])
    assert one["labels"] == [1, 2]


def test_batches_of_changed_rows(english: Any, clip: Clip) -> None:
    model, processor = english
    set_prompt(processor.tokenizer, model, ALL)
    prepared = Prepare(processor)(
        {"audio": {"array": clip(1), "sampling_rate": 16_000}, "text": "yes", "row_id": 0}
    )
    collate = Collator(processor, ALL)
    plain, changed = collate([prepared]), collate([Augment(ALL)(prepared, generator(1))])
    assert torch.equal(plain["labels"], changed["labels"])
    assert not torch.equal(plain["input_features"], changed["input_features"])
    ours = Augment(ALL)(prepared, generator(1))
    masked = changed["input_features"] != collate([{**ours, "masks": torch.zeros(4, 2)}])["input_features"]
    assert masked[0].all(dim=0).any()  # a stretch of time
    assert masked[0, :, :90].all(dim=1).any()  # a run of bands
    assert not masked[0, :, 115:].any()  # after the clip, even at 0.9 of its speed


def test_nothing_is_asked_for_by_default() -> None:
    made = Recipe(name="test", plugins=["whisper"])
    assert toolkit_whisper.toolkit_augment(made.with_settings({WhisperSettings: WhisperSettings()})) is None
    for one in ({"speed": 0.1}, {"noise_snr_db": (0.0, 0.0)}, {"time_masks": 1}, {"frequency_masks": 1}):
        settings = WhisperSettings(**one)  # type: ignore[arg-type]
        assert toolkit_whisper.toolkit_augment(made.with_settings({WhisperSettings: settings})) is not None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"speed": 0.6}, "whisper.speed: must be 0, or from 0.01 to 0.5, found 0.6"),
        ({"speed": -0.1}, "whisper.speed: must be 0, or from 0.01"),
        ({"noise_snr_db": (20, 5)}, "must be the least, then the most, found [20, 5]"),
        ({"time_masks": -1}, "whisper.time_masks: must be at least 0"),
        ({"noise_snr_db": (float("nan"), 5)}, "must be from -100 to 100, found [nan, 5]"),
        ({"noise_snr_db": (-math.inf, 5)}, "must be from -100 to 100"),
        ({"time_mask_seconds": math.inf}, "whisper.time_mask_seconds: must be more than 0, and finite"),
        ({"time_masks": 10**8}, "whisper.time_masks: must be at most 100"),
        ({"time_mask_seconds": 0.0}, "whisper.time_mask_seconds: must be more than 0"),
        ({"frequency_mask_bands": 0}, "whisper.frequency_mask_bands: must be at least 1"),
    ],
)
def test_settings_out_of_range(wrong: Any, message: str) -> None:
    made = Recipe(name="test", plugins=["whisper"]).with_settings({WhisperSettings: WhisperSettings(**wrong)})
    (fault,) = toolkit_whisper.toolkit_check(made)
    assert message in str(fault)
