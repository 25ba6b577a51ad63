"""Short windows: each row's own, whatever else is in its batch; the full one is Whisper's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toolkit_whisper.collate import Collator
from toolkit_whisper.features import FeatureSpec, log_mel
from toolkit_whisper.loss import summed_cross_entropy
from toolkit_whisper.model import set_window
from toolkit_whisper.prepare import Prepare
from toolkit_whisper.scoring import Evaluate
from toolkit_whisper.settings import WhisperSettings, faults
from toolkit_whisper.transcribe import tokens_for, transcribe
from toolkit_whisper.windows import ShortEncoder, by_window, in_full_window
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tests.plugins.whisper.conftest import Nano
from toolkit import DataError, ModelError, Recipe, RecipeError
from toolkit.plugins import Plugins

RATE, WINDOW = 16_000, 2.0
SECONDS = (0.3, 1.2, 0.45, 2.0)


def rows(processor: Any, seconds: tuple[float, ...] = SECONDS) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    prepare = Prepare(processor)
    return [
        prepare(
            {"audio": {"array": torch.randn(round(one * RATE)).numpy() * 0.1, "sampling_rate": RATE},
             "text": f"clip {place}", "row_id": place}
        )
        for place, one in enumerate(seconds)
    ]  # fmt: skip


@pytest.fixture
def fitted(english: Nano) -> Nano:
    model, processor = english
    set_window(model, processor.feature_extractor, "fit")
    return model.eval(), processor


def test_a_fitted_window_is_whole_seconds_and_ends_in_silence(fitted: Nano) -> None:
    spec = FeatureSpec.of(fitted[1].feature_extractor)
    lengths = {
        seconds: spec.frames_for(round(seconds * RATE)) / 100 for seconds in (0.01, 0.5, 0.501, 1.5, 2.0)
    }
    assert lengths == {0.01: 1.0, 0.5: 1.0, 0.501: 2.0, 1.5: 2.0, 2.0: WINDOW}


def test_features_are_the_beginning_of_those_of_the_full_window(english: Nano) -> None:
    extractor = english[1].feature_extractor
    whole = FeatureSpec.of(extractor)
    extractor.audio_window = "fit"
    sound = torch.randn(round(0.4 * RATE)) * 0.1
    for loud in (sound, sound * 1e-6, torch.zeros(3000)):
        short, full = log_mel(loud, FeatureSpec.of(extractor)), log_mel(loud, whole)
        assert torch.equal(short, full[:, : short.shape[1]])
        assert short.shape[1] == 100
        torch.testing.assert_close(in_full_window(short[None], whole.frames)[0], full)


def test_rows_go_by_windows(fitted: Nano) -> None:
    batch = Collator(fitted[1], WhisperSettings())(rows(fitted[1]))
    assert batch["frames"].tolist() == [100, 200, 100, 200]
    parts = list(by_window(batch))
    assert [(places, part["input_features"].shape[-1]) for places, part in parts] == [
        ([0, 2], 100),
        ([1, 3], 200),
    ]
    assert [part["references"] for _, part in parts] == [["clip 0", "clip 2"], ["clip 1", "clip 3"]]


def test_a_rows_loss_and_text_are_its_own(fitted: Nano) -> None:
    model, processor = fitted
    collate, evaluate = Collator(processor, WhisperSettings()), Evaluate(processor, WhisperSettings())
    together = collate(rows(processor))
    alone = [collate([row]) for row in rows(processor)]
    with torch.no_grad():
        loss = summed_cross_entropy(model, together)
        losses = [summed_cross_entropy(model, one) for one in alone]
        scored, singly = evaluate(model, together), [evaluate(model, one) for one in alone]
    torch.testing.assert_close(loss.total, sum(one.total for one in losses))
    assert int(loss.count) == sum(int(one.count) for one in losses)
    torch.testing.assert_close(scored.loss.total, loss.total)
    assert scored.predictions == [one.predictions[0] for one in singly]
    assert scored.batch["in_full_window"] == [one.batch["in_full_window"][0] for one in singly]
    for place, one in enumerate(losses):
        width = one.outputs.logits.shape[1]
        torch.testing.assert_close(
            loss.outputs.logits[place, :width], one.outputs.logits[0], atol=1e-4, rtol=1e-4
        )


def test_the_full_window_beside_it_is_whispers_own(fitted: Nano, english_again: Nano) -> None:
    model, processor = fitted
    plain, its = english_again
    batch = Collator(processor, WhisperSettings())(rows(processor))
    whole = Collator(its, WhisperSettings())(rows(its))
    assert whole["input_features"].shape[-1] == 200
    with torch.no_grad():
        expected = Evaluate(its, WhisperSettings())(plain, whole)
        found = Evaluate(processor, WhisperSettings())(model, batch)
    assert found.batch["in_full_window"] == expected.predictions
    assert "in_full_window" not in expected.batch


@pytest.fixture
def english_again(english: Nano) -> Nano:
    """The same weights, untouched by windows."""
    import copy

    model, processor = english
    plain = WhisperForConditionalGeneration(model.config).eval()
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    its = copy.deepcopy(processor)
    if hasattr(its.feature_extractor, "audio_window"):
        del its.feature_extractor.audio_window
    return plain, its


def test_gradients_of_a_short_window(fitted: Nano) -> None:
    """The constants of the encoder are as they were, and everything else gets a gradient."""
    model, processor = fitted
    encoder = model.get_encoder()
    before, most = encoder.embed_positions.weight.clone(), model.config.max_source_positions
    summed_cross_entropy(model, Collator(processor, WhisperSettings())(rows(processor))).total.backward()
    assert encoder.conv1.weight.grad is not None
    assert torch.equal(encoder.embed_positions.weight, before)
    assert encoder.embed_positions.weight.shape[0] == model.config.max_source_positions == most


def test_what_is_saved_is_a_whisper_that_remembers_its_window(fitted: Nano, tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor

    model, processor = fitted
    assert type(model.get_encoder()) is ShortEncoder
    model.save_pretrained(tmp_path)
    processor.feature_extractor.save_pretrained(tmp_path)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert type(again.get_encoder()) is WhisperEncoder
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    extractor = WhisperFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.audio_window == "fit"
    assert extractor(torch.zeros(100).numpy(), sampling_rate=RATE).input_features[0].shape == (80, 200)
    set_window(again, extractor, None)
    assert type(again.get_encoder()) is ShortEncoder
    set_window(again, extractor, "full")
    assert not hasattr(extractor, "audio_window")


@pytest.mark.parametrize(("positions", "most"), [(50, 40), (100, 40), (0, 20)])
def test_a_short_window_has_room_for_its_share_of_a_text(fitted: Nano, positions: int, most: int) -> None:
    assert tokens_for(fitted[0].config, positions) == most


@pytest.mark.parametrize(("positions", "asked", "made"), [(100, None, 38), (10, None, 24), (10, 30, 30)])
def test_a_model_that_repeats_itself_stops(fitted: Nano, positions: int, asked: Any, made: int) -> None:
    """The decoder takes 40 tokens, two of them the prompt's, for 100 positions."""
    model, processor = fitted
    model.generation_config.suppress_tokens = [processor.tokenizer.eos_token_id]
    tokens: list[int] = []
    model.get_decoder().register_forward_hook(lambda *_: tokens.append(1))
    encoded = BaseModelOutput(last_hidden_state=torch.randn(1, positions, 32))  # type: ignore[arg-type]
    prompt = torch.tensor([processor.tokenizer.prefix_tokens])
    transcribe(model, encoded, processor.tokenizer, prompt, WhisperSettings(max_new_tokens=asked))
    assert len(tokens) == made


def test_so_many_seconds(english: Nano) -> None:
    model, processor = english
    set_window(model, processor.feature_extractor, 1.5)
    assert FeatureSpec.of(processor.feature_extractor).frames == 150
    batch = Collator(processor, WhisperSettings())(rows(processor, (0.3, 1.4)))
    assert batch["input_features"].shape == (2, 80, 150)
    summed_cross_entropy(model, batch)
    with pytest.raises(DataError, match=r"lasts 2 s, longer than the window of 1\.5 s"):
        rows(processor, (2.0,))


def test_a_window_that_cannot_be(english: Nano) -> None:
    model, processor = english
    with pytest.raises(RecipeError, match=r"45 s is longer than the model's own window of 2 s"):
        set_window(model, processor.feature_extractor, 45)
    (fault,) = faults(WhisperSettings(audio_window=0.2), None)
    assert fault.message == "whisper.audio_window: must be at least 1 s, found 0.2"
    (fault,) = faults(WhisperSettings(audio_window=float("nan")), None)
    assert fault.message == "whisper.audio_window: must be at least 1 s, found nan"
    with pytest.raises(RecipeError, match="input should be 'full' or 'fit', found") as caught:
        Plugins(Recipe(name="r", plugins=["whisper"], whisper={"audio_window": "10s"}))
    assert caught.value.hint == "choose one of them, or write a number"


@pytest.mark.parametrize("remembered", [[1], float("nan"), "evil", True, -3, 1e-9, 10**30, None])
def test_a_window_that_is_none_is_not_remembered(remembered: Any, english: Nano) -> None:
    model, processor = english
    processor.feature_extractor.audio_window = remembered
    with pytest.raises(
        ModelError, match=r"audio_window among the settings of the model's feature extractor is"
    ):
        set_window(model, processor.feature_extractor, None)
    set_window(model, processor.feature_extractor, "fit")
    assert processor.feature_extractor.audio_window == "fit"
