"""Audio files of any length to text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from toolkit import unwrapped
from toolkit_whisper.audio import opened, resampled
from toolkit_whisper.features import FeatureSpec, log_mel
from toolkit_whisper.labels import prompt_for
from toolkit_whisper.loss import features_for
from toolkit_whisper.settings import WhisperSettings
from toolkit_whisper.transcribe import heard_languages, transcribe

PIECES_AT_ONCE = 8
PAUSE_SECONDS, STEP_SECONDS = 0.2, 0.01
SILENCE = 1e-4
"""Peak amplitude, -80 dB of full scale, below which Whisper would invent a text."""


class Transcriber:
    """`(paths) -> texts`. Long files are cut at quiet places and the texts of the pieces joined by spaces.

    transformers' own way with long files goes by the timestamps that the model writes; one that was tuned on
    transcripts without them no longer writes them reliably. Where a multilingual model was not told the language,
    each file's is the one heard in its first piece.
    """

    def __init__(self, model: Any, processor: Any, settings: WhisperSettings) -> None:
        self.whisper, self.tokenizer = unwrapped(model), processor.tokenizer
        self.settings = settings
        self.features = FeatureSpec.of(processor.feature_extractor, settings.audio_window)

    def __call__(self, paths: list[str]) -> list[str]:
        """The text of each file.

        Raises:
            DataError: a file cannot be read; all are opened before the first is transcribed.
        """
        for path in paths:
            with opened(path):
                pass
        texts: list[list[str]] = [[] for _ in paths]
        pieces = self._pieces(paths)
        languages: dict[int, str] = {}
        while batch := list(islice(pieces, PIECES_AT_ONCE)):
            places, sounds = zip(*batch, strict=True)
            for place, text in zip(places, self._transcribe(places, sounds, languages), strict=True):
                texts[place].append(text)
        return [" ".join(filter(None, parts)) for parts in texts]

    def _pieces(self, paths: list[str]) -> Iterator[tuple[int, Tensor]]:
        """The place of a file among `paths`, and a piece of it that can be heard."""
        for place, path in enumerate(paths):
            with opened(path) as recording:
                for piece in cut(recording.blocks, recording.rate, self.features.seconds):
                    if piece.abs().max() >= SILENCE:
                        yield place, resampled(piece, recording.rate, self.features.rate)

    @torch.inference_mode()
    def _transcribe(
        self, places: Sequence[int], sounds: Sequence[Tensor], languages: dict[int, str]
    ) -> list[str]:
        """Pieces of one window at a time."""
        features = [log_mel(sound, self.features) for sound in sounds]
        texts: list[str] = [""] * len(sounds)
        for frames in dict.fromkeys(
            one.shape[1] for one in features
        ):  # a file's first piece tells its language
            chosen = [number for number, one in enumerate(features) if one.shape[1] == frames]
            together = torch.stack([features[number] for number in chosen])
            said = self._said([places[number] for number in chosen], together, languages)
            for number, text in zip(chosen, said, strict=True):
                texts[number] = text
        return texts

    def _said(self, places: Sequence[int], features: Tensor, languages: dict[int, str]) -> list[str]:
        batch = {"input_features": features.to(self.whisper.device)}
        encoded = self.whisper.get_encoder()(features_for(self.whisper, batch))
        prompt = torch.tensor(self._prompts(places, encoded, languages))
        return transcribe(self.whisper, encoded, self.tokenizer, prompt, self.settings)

    def _prompts(self, places: Sequence[int], encoded: Any, languages: dict[int, str]) -> list[list[int]]:
        """A prompt a row; `languages`, by file, takes up what is heard."""
        if self.tokenizer.task is None or self.tokenizer.language is not None:
            return [self.tokenizer.prefix_tokens] * len(places)
        if not languages.keys() >= set(places):
            heard = heard_languages(self.whisper, encoded, self.tokenizer)
            for place, code in zip(places, heard, strict=True):
                languages.setdefault(place, code)
        return [prompt_for(languages[place], self.tokenizer) for place in places]


def cut(blocks: Iterable[Tensor], rate: int, max_seconds: float) -> Iterator[Tensor]:
    """Pieces of at most `max_seconds`, cut where it is quiet, with every sample in exactly one.

    Holds no more than one piece and one block.

    Args:
        blocks: (samples,) at `rate` Hz, in order.
    """
    most, kept = int(max_seconds * rate), torch.empty(0)
    for block in blocks:
        kept = torch.cat([kept, block])
        while len(kept) > most:
            place = quiet_place(kept[:most], rate)
            yield kept[:place]
            kept = kept[place:]
    if len(kept):
        yield kept


def quiet_place(audio: Tensor, rate: int) -> int:
    """The middle of the quietest 0.2 s in the last third of `audio` (samples,), as a number of samples."""
    pause, step = int(PAUSE_SECONDS * rate), int(STEP_SECONDS * rate)
    start = 2 * len(audio) // 3
    power = audio[start:].square().unfold(0, pause, step).mean(dim=1)
    return start + int(power.argmin()) * step + pause // 2
