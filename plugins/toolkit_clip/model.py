"""Loading a CLIP or SigLIP and seeing that its parts fit."""

from __future__ import annotations

from typing import Any

import transformers

from toolkit import ModelError, load_model, load_processor, unwrapped
from toolkit_clip.loss import loss_name
from toolkit_clip.pixels import PixelSpec
from toolkit_clip.settings import ClipSettings

MODELS = (transformers.CLIPModel, transformers.SiglipModel)
PROCESSORS = {"clip": transformers.CLIPProcessor, "siglip": transformers.SiglipProcessor}
LEGACY_END = 2
"""What older configurations call the end of a text, whatever it is: the model then looks at the highest token."""
_PARTS = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
    "projections": ("visual_projection.", "text_projection."),
}


def load(spec: Any, settings: ClipSettings) -> tuple[Any, Any]:
    """The model, of which what the settings say trains, and its processor.

    Raises:
        ModelError: it cannot be loaded, is no CLIP or SigLIP, its processor is another model's, or it cannot do what
            the settings ask for.
    """
    model = load_model(spec, MODELS)
    processor = load_processor(spec, PROCESSORS[unwrapped(model).config.model_type])
    fit(model, processor, settings)
    return model, processor


def fit_given(model: Any, processor: Any, settings: ClipSettings) -> None:
    """Have a model and a processor that were given in code work together as `load` has its own.

    Raises:
        ModelError: it is no CLIP or SigLIP, there is no processor, it is another model's, or the model cannot do what
            the settings ask for.
    """
    if not isinstance(unwrapped(model), MODELS):
        raise ModelError(
            f"the model that was given is a {type(model).__name__}, no CLIP and no SigLIP",
            hint="give a CLIPModel or a SiglipModel, or run another task",
        )
    if processor is None:
        raise ModelError("the model was given without its processor", hint="give it too: processor=...")
    fit(model, processor, settings)


def fit(model: Any, processor: Any, settings: ClipSettings) -> None:
    clip, tokenizer = unwrapped(model), processor.tokenizer
    most = clip.config.text_config.max_position_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, most)
    check_fit(clip.config, processor)
    loss_name(clip, settings)
    freeze(model, settings)


def freeze(model: Any, settings: ClipSettings) -> None:
    """Have nothing train but the part that `clip.trained` names and the temperature.

    Raises:
        ModelError: the model has no such part.
    """
    clip = unwrapped(model)
    if settings.trained == "projections" and not hasattr(clip, "visual_projection"):
        raise ModelError(
            f"clip.trained: 'projections', but a {type(clip).__name__} has none: its towers end in its features",
            hint="train image, text or all",
        )
    trained = _PARTS.get(settings.trained, ("",))
    for name, weights in clip.named_parameters():
        if not name.startswith((*trained, "logit_scale", "logit_bias")):
            weights.requires_grad_(False)
    if hasattr(clip, "logit_bias") and loss_name(clip, settings) == "infonce":
        clip.logit_bias.requires_grad_(False)  # the loss does not depend on it


def check_fit(config: Any, processor: Any) -> None:
    """See that the processor is this model's.

    Raises:
        ModelError: they differ in the size of images, the vocabulary or the end of a text.
    """
    pixels, tokenizer = PixelSpec.of(processor.image_processor), processor.tokenizer
    size, text = config.vision_config.image_size, config.text_config
    differences = []
    if (pixels.height, pixels.width) != (size, size):
        differences.append(f"images: {pixels.width} x {pixels.height}, not {size} x {size}")
    highest = max([*tokenizer.get_vocab().values(), *tokenizer("a").input_ids])
    if highest >= text.vocab_size:
        differences.append(f"tokens: up to number {highest}, not {text.vocab_size - 1}")
    elif config.model_type == "clip" and tokenizer.eos_token_id != _end_of_text(text, tokenizer):
        differences.append(
            f"the end of a text: {tokenizer.eos_token_id}, not {_end_of_text(text, tokenizer)}"
        )
    if differences:
        raise ModelError(
            "the processor is not this model's: " + "; ".join(differences),
            hint="keep preprocessor_config.json and the tokenizer's files of the model beside its weights",
        )


def _end_of_text(text: Any, tokenizer: Any) -> int:
    """The token whose place the model reads a text's features from."""
    return max(tokenizer.get_vocab().values()) if text.eos_token_id == LEGACY_END else int(text.eos_token_id)
