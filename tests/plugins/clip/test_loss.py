"""The losses against transformers' and open_clip's, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toolkit_clip.loss import BatchLoss, infonce, loss_name, siglip
from toolkit_clip.settings import ClipSettings
from toolkit_clip.temperature import clamp
from torch import Tensor
from transformers import SiglipConfig, SiglipModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from toolkit import ModelError

# Of open_clip 3.3.0's `ClipLoss()(a, b, scale)` and `SigLipLoss()(a, b, scale, bias)`, computed once in float64 on
# `points(rows, 0.1)` and `points(rows, 0.2)`; then the norms of their gradients by a and by b.
OPEN_CLIP = [
    (1, 14.0, -10.0, 0.0, 0.050281042846732064, 0.0, 0.6865302382637313),
    (5, 14.0, -10.0, 7.415870008021118, 11.086528277680403, 6.533099825450575, 5.637611795007597),
    (5, 100.0, -3.0, 52.40250219484129, 80.12348276538698, 46.06210378832812, 69.85136770774565),
    (16, 14.0, -10.0, 11.60684419293728, 13.304987473699438, 4.531166456938229, 4.447074083386773),
    (16, 100.0, -3.0, 80.80673734792484, 235.76320997266902, 33.86594830783319, 82.61299823774515),
]


def points(rows: int, shift: float) -> Tensor:
    """(rows, 6) of length 1, the same everywhere."""
    place = torch.arange(rows * 6, dtype=torch.float64).reshape(rows, 6)
    return torch.nn.functional.normalize((place * place * 0.37 + shift * place).sin(), dim=-1)


@pytest.mark.parametrize(
    ("rows", "scale", "bias", "clip_loss", "siglip_loss", "clip_slope", "siglip_slope"), OPEN_CLIP
)
def test_they_are_open_clips(
    rows: int,
    scale: float,
    bias: float,
    clip_loss: float,
    siglip_loss: float,
    clip_slope: float,
    siglip_slope: float,
) -> None:
    images, texts = points(rows, 0.1).requires_grad_(), points(rows, 0.2).requires_grad_()
    log_scale, offset = (torch.tensor(one, dtype=torch.float64) for one in (math.log(scale), bias))
    ours = infonce(images, texts, log_scale) / rows
    theirs = siglip(images, texts, log_scale, offset) / rows
    assert float(ours.detach()) == pytest.approx(clip_loss, rel=1e-12, abs=1e-12)
    assert float(theirs.detach()) == pytest.approx(siglip_loss, rel=1e-12)
    assert float(torch.autograd.grad(ours, images)[0].norm()) == pytest.approx(
        clip_slope, rel=1e-11, abs=1e-12
    )
    assert float(torch.autograd.grad(theirs, texts)[0].norm()) == pytest.approx(siglip_slope, rel=1e-11)


def test_infonce_is_transformers_clip_loss() -> None:
    images, texts = points(7, 0.3), points(7, 0.4)
    log_scale = torch.tensor(2.66, dtype=torch.float64)
    theirs = image_text_contrastive_loss(log_scale.exp() * texts @ images.T)
    assert float(infonce(images, texts, log_scale) / 7) == pytest.approx(float(theirs), rel=1e-12)


def test_infonce_by_hand() -> None:
    """Of two pairs at right angles with scale 1: ln(1 + e^-1) for each, both ways."""
    images = torch.eye(2, dtype=torch.float64)
    loss = infonce(images, images, torch.tensor(0.0, dtype=torch.float64))
    assert float(loss) == pytest.approx(2 * math.log(1 + math.exp(-1)))


def siglip_model() -> Any:
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 30, "max_position_embeddings": 8, "projection_size": 16}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).double().eval()


def batch(rows: int = 5) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "pixels": torch.randint(0, 256, (rows, 3, 16, 16), generator=generator, dtype=torch.uint8),
        "mean": torch.full((3,), 127.0, dtype=torch.float64),
        "std": torch.full((3,), 64.0, dtype=torch.float64),
        "input_ids": torch.randint(0, 30, (rows, 8), generator=generator),
        "image_of": torch.arange(rows),
        "num_targets": rows,
    }


def test_siglip_is_that_of_transformers_model() -> None:
    model, given = siglip_model(), batch()
    pixels = (given["pixels"].double() - 127) / 64
    theirs = model(pixel_values=pixels, input_ids=given["input_ids"], return_loss=True).loss
    ours = BatchLoss(ClipSettings())(model, given)
    assert float(ours.total.detach()) / 5 == pytest.approx(float(theirs.detach()), rel=1e-12)
    assert ours.count == 5
    assert ours.report["logit_scale"] == pytest.approx(float(model.logit_scale.detach().exp()))


def test_a_siglip_model_may_be_trained_by_the_other_loss() -> None:
    assert loss_name(siglip_model(), ClipSettings()) == "siglip"
    loss = BatchLoss(ClipSettings(loss="infonce"))(siglip_model(), batch())
    assert float(loss.total.detach()) / 5 == pytest.approx(math.log(5), rel=0.5)


def test_a_clip_has_no_place_for_siglips_bias(nano: Any) -> None:
    assert loss_name(nano[0], ClipSettings()) == "infonce"
    with pytest.raises(ModelError) as caught:
        loss_name(nano[0], ClipSettings(loss="siglip"))
    assert "learns a bias, which a CLIPModel has no place for" in caught.value.message
    assert "clip.loss=infonce" in str(caught.value.hint)


@pytest.mark.parametrize(("given", "held"), [(-0.5, 0.0), (2.5, 2.5), (5.0, math.log(100))])
def test_the_scale_is_held_between_1_and_100(nano: Any, given: float, held: float) -> None:
    clip = nano[0]
    clip.logit_scale.data.fill_(given)
    clamp(clip)
    assert clip.logit_scale.item() == pytest.approx(held)
    clip.logit_scale.data.fill_(9.0)
    clip.logit_scale.requires_grad_(False)
    clamp(clip)
    assert clip.logit_scale.item() == 9.0
