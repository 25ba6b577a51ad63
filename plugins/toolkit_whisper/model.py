"""Loading a Whisper and seeing that its parts fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers

from toolkit import ModelError, load_model, load_processor, unwrapped
from toolkit_whisper.attention import look_at_sound
from toolkit_whisper.features import FULL, FeatureSpec, window_of
from toolkit_whisper.labels import START, language_code, set_prompt
from toolkit_whisper.settings import WhisperSettings
from toolkit_whisper.windows import shorten


class WhisperProcessor(transformers.WhisperProcessor):
    """transformers' own, which saves all but the tokenizer's map of spellings; `wer` depends on it."""

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> Any:
        saved = super().save_pretrained(save_directory, **kwargs)
        spellings = self.tokenizer.english_spelling_normalizer
        if spellings:
            text = json.dumps(spellings, indent=2, sort_keys=True, ensure_ascii=False)
            Path(save_directory, "normalizer.json").write_text(text + "\n", encoding="utf-8")
        return saved


def load(spec: Any, settings: WhisperSettings) -> tuple[Any, Any]:
    """The model and its processor, whose tokenizer knows the prompt (see `set_prompt`).

    Raises:
        ModelError: it cannot be loaded, is no Whisper, or its processor is another model's.
        RecipeError: it cannot do what the settings ask for.
    """
    if settings.language:
        language_code(settings.language)
    model = load_model(spec, transformers.WhisperForConditionalGeneration)
    processor = load_processor(spec, WhisperProcessor)
    fit(model, processor, settings)
    return model, processor


def fit_given(model: Any, processor: Any, settings: WhisperSettings) -> None:
    """Have a model and a processor that were given in code work together as `load` has its own.

    What the processor's tokenizer was told of language and task stays, where the settings say nothing of it.

    Raises:
        ModelError: it is no Whisper, there is no processor, or it is another model's.
        RecipeError: the model cannot do what the settings ask for.
    """
    if getattr(getattr(model, "config", None), "model_type", None) != "whisper":
        raise ModelError(
            f"the model that was given is a {type(model).__name__}, no Whisper",
            hint="give a WhisperForConditionalGeneration, or run another task",
        )
    if processor is None:
        raise ModelError("the model was given without its processor", hint="give it too: processor=...")
    told = processor.tokenizer
    language = settings.language or told.language
    task = "translate" if told.task == "translate" else settings.task
    fit(model, processor, replace(settings, language=language, task=task))


def fit(model: Any, processor: Any, settings: WhisperSettings) -> None:
    check_fit(model.config, processor)
    set_prompt(processor.tokenizer, model, settings)
    # Sinusoids are constants of Whisper; transformers 5 forgets it as it loads weights.
    unwrapped(model).get_encoder().embed_positions.requires_grad_(False)
    look_at_sound(unwrapped(model).get_decoder())
    set_generation(model, processor.tokenizer)
    set_window(model, processor.feature_extractor, settings.audio_window)


def set_window(model: Any, extractor: Any, window: str | float | None) -> None:
    """Have the encoder take short windows, and the extractor, with which it is saved, remember the one.

    Raises:
        RecipeError: it is longer than the model's own.
    """
    shorten(unwrapped(model).get_encoder())
    window = window_of(extractor, window)
    FeatureSpec.of(extractor, window)
    if window != FULL:
        extractor.audio_window = window
    elif hasattr(extractor, "audio_window"):
        del extractor.audio_window


def set_generation(model: Any, tokenizer: Any) -> None:
    """Have plain `generate` begin as `set_prompt` has it; it is saved with the model.

    Without, a multilingual model guesses the language, and one that was tuned to translate transcribes.
    """
    settings = model.generation_config
    if hasattr(settings, "lang_to_id"):
        settings.language, settings.task = tokenizer.language, tokenizer.task


def check_fit(config: Any, processor: Any) -> None:
    """See that the processor is this model's.

    Raises:
        ModelError: they differ in the mel bands, the window, the vocabulary or the start token.
    """
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    frames = extractor.n_samples // extractor.hop_length
    facts = {
        "mel bands": (extractor.feature_size, config.num_mel_bins),
        "frames in a window": (frames, 2 * config.max_source_positions),
        f"id of {START}": (tokenizer.convert_tokens_to_ids(START), config.decoder_start_token_id),
    }
    differences = [f"{what}: {its}, not {models}" for what, (its, models) in facts.items() if its != models]
    highest = max([*tokenizer.get_vocab().values(), *tokenizer("a").input_ids])
    if highest >= config.vocab_size:
        differences.append(f"tokens: up to number {highest}, not {config.vocab_size - 1}")
    if differences:
        raise ModelError(
            "the processor is not this model's: " + "; ".join(differences),
            hint="keep preprocessor_config.json and the tokenizer's files of the model beside its weights",
        )
