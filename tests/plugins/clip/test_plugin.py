"""The hooks, one after the other, as a run calls them; models and rows that are wrong."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toolkit_clip
import torch
from PIL import Image
from toolkit_clip import ClipSettings
from toolkit_clip.captions import Captions
from toolkit_clip.model import check_fit
from transformers import CLIPModel, CLIPProcessor, LlamaConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from toolkit import DataError, ModelError, Recipe, RecipeError


def recipe(settings: ClipSettings | None = None, **values: Any) -> Recipe:
    made = Recipe(name="test", plugins=["clip"], **values)
    return made.with_settings({ClipSettings: settings or ClipSettings()})


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, toolkit_clip; print({'torch', 'transformers', 'PIL'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_columns_are_recognised_by_their_usual_names() -> None:
    image, caption, label = toolkit_clip.toolkit_columns()
    assert (image.name, image.required, image.keeps_together) == ("image", True, True)
    assert (caption.name, caption.required, caption.keeps_together) == ("caption", True, False)
    assert (label.name, label.required) == ("label", False)
    assert "file_name" in image.usual
    assert {"text", "captions"} <= {*caption.usual}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch_size": 0}, "clip.micro_batch_size: must be at least 1, found 0"),
        ({"min_crop": 0.0}, "clip.min_crop: must be more than 0 and at most 1, found 0"),
        ({"min_crop": 1.5}, "clip.min_crop: must be more than 0 and at most 1, found 1.5"),
        ({"flip": 2.0}, "clip.flip: must be from 0 to 1, found 2"),
        ({"colour": -0.1}, "clip.colour: must be from 0 to 1, found -0.1"),
        ({"label_template": "a cat"}, "clip.label_template: 'a cat' has no {label} in it"),
        ({"trained": "image"}, "clip.trained: 'image', but the recipe's adapter decides what trains"),
    ],
)
def test_faults_that_are_known_before_the_model_is(settings: Any, message: str) -> None:
    (fault,) = toolkit_clip.toolkit_check(recipe(ClipSettings(**settings), adapter={"r": 4}))
    assert isinstance(fault, RecipeError)
    assert fault.message == message


def test_what_is_right_has_no_faults() -> None:
    assert toolkit_clip.toolkit_check(recipe(adapter={"r": 4})) == []
    assert toolkit_clip.toolkit_check(recipe(ClipSettings(trained="text"))) == []
    (fault,) = toolkit_clip.toolkit_check(recipe(adapter={"task_type": "FEATURE_EXTRACTION"}))
    assert "adapter.task_type: 'FEATURE_EXTRACTION'" in str(fault)


def test_from_folder_to_scores_and_predictions(folder: str, rows: Any) -> None:
    """The features of a batch are those that plain transformers gives for the same files."""
    asked = recipe(model=folder)
    model, processor = toolkit_clip.toolkit_model(asked)()
    prepare = pickle.loads(pickle.dumps(toolkit_clip.toolkit_prepare(recipe(), processor)))
    raw = [{**row, "row_id": number, "photographer": "a"} for number, row in enumerate(rows(5))]
    raw[1]["caption"] = ["one", "  another one"]
    made = [prepare(row) for row in raw]
    assert made[0]["photographer"] == "a"
    batch = toolkit_clip.toolkit_collator(asked, processor)(made)
    assert batch["pixels"].dtype == torch.uint8
    assert batch["image_of"].tolist() == [0, 1, 1, 2, 3, 4]
    assert batch["num_targets"] == 5
    assert batch["work"] == {"images": 5.0}
    scored = toolkit_clip.toolkit_evaluate_batch(asked)(model.eval(), batch)
    plain = CLIPModel.from_pretrained(folder).eval()
    images = [Image.open(row["image"]) for row in raw]
    captions = [one for row in made for one in row["caption"]]
    assert captions[1:3] == ["one", "another one"]
    given = CLIPProcessor.from_pretrained(folder)(
        images=images, text=captions, padding=True, return_tensors="pt"
    )
    expected = plain(**given)
    assert torch.equal(batch["input_ids"], given["input_ids"])
    for kind in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(scored.loss.outputs[kind], expected[kind], rtol=1e-4, atol=1e-5)
    assert scored.references == [captions[place] for place in (0, 1, 3, 4, 5)]
    assert {*scored.predictions} <= {*captions}
    loss = toolkit_clip.toolkit_loss(asked)(model, batch)
    assert float(scored.loss.total.detach()) == pytest.approx(float(loss.total.detach()), rel=1e-5)
    first = toolkit_clip.toolkit_predict(model, processor)([raw[0]["image"], *captions])[raw[0]["image"]]
    cosines = (expected.image_embeds @ expected.text_embeds.T)[0]
    assert [one["caption"] for one in first] == [
        captions[place] for place in cosines.argsort(descending=True)
    ]
    assert first[0]["score"] == pytest.approx(float(cosines.max()), abs=1e-4)


def test_the_loss_is_the_models_own(folder: str, rows: Any) -> None:
    asked = recipe(model=folder)
    model, processor = toolkit_clip.toolkit_model(asked)()
    prepare = toolkit_clip.toolkit_prepare(recipe(), processor)
    made = [prepare({**row, "row_id": place}) for place, row in enumerate(rows(4))]
    batch = toolkit_clip.toolkit_collator(asked, processor)(made)
    loss = toolkit_clip.toolkit_loss(asked)(model.eval(), batch)
    pixels = (batch["pixels"].float() - batch["mean"][:, None, None]) / batch["std"][:, None, None]
    texts = {key: batch[key] for key in ("input_ids", "attention_mask")}
    theirs = model(pixel_values=pixels, **texts, return_loss=True).loss
    assert float(loss.total.detach()) / 4 == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_bad_rows_are_named(nano: Any, picture: Any, write: Any) -> None:
    prepare = toolkit_clip.toolkit_prepare(recipe(), nano[1])
    path = str(write("a.png", picture(8, 8)))
    for caption, message in {
        "": "the caption is empty",
        "  ": "the caption is empty",
        ("a", " "): "one of the captions is empty",
        (): "the caption is empty",
        None: "the caption is no text: None",
        3: "the caption is no text: 3",
        ("a", 4): "the caption is no text: ('a', 4)",
    }.items():
        with pytest.raises(DataError) as caught:
            prepare({"image": path, "caption": caption, "row_id": 0})
        assert caught.value.message == f"{path}: {message}"
    with pytest.raises(DataError, match=r"missing\.png does not exist"):
        prepare({"image": "missing.png", "caption": "a", "row_id": 0})


def test_long_captions_are_cut_as_clip_does(nano: Any) -> None:
    """The end stays, where the model looks for the meaning; the reference is transformers' truncation."""
    captions = Captions(nano[1].tokenizer)
    text = "a b c d e f g h i j k l m n o p q r s t u v w"
    ids = captions.tokens(text)
    assert len(ids) == 16
    assert ids[-1] == nano[1].tokenizer.eos_token_id
    assert captions.length(text) == 25
    theirs = nano[1](text=[text, "a"], truncation=True, padding=True, return_tensors="pt")
    ours = captions.batch([ids, captions.tokens("a")])
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"])


def test_rows_are_looked_at_without_decoding(nano: Any, picture: Any, write: Any) -> None:
    look = toolkit_clip.toolkit_inspect(nano[1])
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write("a.jpg", picture(40, 30), exif=exif)
    path.write_bytes(path.read_bytes()[:-200])
    assert look({"image": str(path), "caption": ["ab", "a b c d e f g h i j k l m n o p"]}) == {
        "captions of an image": 2,
        "caption tokens": 18,
        "captions": "cut after 16 tokens",
        "width": 40,
        "height": 30,
        "image": "JPEG, RGB, turned by EXIF",
        "usable": "yes",
    }
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    moving = str(write("a.gif", frames[0], save_all=True, append_images=frames[1:]))
    assert look({"image": moving, "caption": "a"})["image"] == "GIF, P, animated: first frame"
    for row, usable in (
        ({"image": moving, "caption": ""}, "no: no caption"),
        ({"image": "none.png", "caption": "a"}, "no: image missing or unreadable"),
    ):
        with pytest.raises(DataError) as caught:
            look(row)
        assert caught.value.facts["usable"] == usable


def test_a_row_is_shown_as_the_model_sees_it(nano: Any, rows: Any) -> None:
    row = toolkit_clip.toolkit_prepare(recipe(), nano[1])({**rows(1)[0], "caption": "no", "row_id": 0})
    shown = toolkit_clip.toolkit_show(nano[1])(row)
    assert shown == "32 x 32 pixels; caption of 4 tokens: <|startoftext|> n o</w> <|endoftext|>"


@pytest.mark.parametrize("trained", ["all", "image", "text", "projections"])
def test_what_trains_without_an_adapter(trained: Any, folder: str) -> None:
    model, _ = toolkit_clip.toolkit_model(recipe(ClipSettings(trained=trained), model=folder))()
    found = {name.split(".")[0] for name, weights in model.named_parameters() if weights.requires_grad}
    parts = {
        "all": {"vision_model", "text_model", "visual_projection", "text_projection"},
        "image": {"vision_model", "visual_projection"},
        "text": {"text_model", "text_projection"},
        "projections": {"visual_projection", "text_projection"},
    }
    assert found == parts[trained] | {"logit_scale"}


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds a LlamaForCausalLM \(model_type 'llama'\), not a CLIPModel"):
        toolkit_clip.toolkit_model(recipe(model=str(tmp_path)))()


def test_siglip_asked_of_a_clip_is_refused_as_it_is_loaded(folder: str) -> None:
    with pytest.raises(ModelError, match=r"clip\.loss: siglip learns a bias"):
        toolkit_clip.toolkit_model(recipe(ClipSettings(loss="siglip"), model=folder))()


def test_a_processor_of_another_model_is_refused(nano: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = nano
    check_fit(model.config, processor)
    with monkeypatch.context() as patch:
        patch.setattr(processor.tokenizer, "get_vocab", lambda: {"a": 10**6})
        with pytest.raises(ModelError, match="tokens: up to number 1000000"):
            check_fit(model.config, processor)
    model.config.text_config.eos_token_id = 2  # as older configurations have it: the last token is meant
    check_fit(model.config, processor)
    model.config.text_config.eos_token_id = 7
    with pytest.raises(ModelError, match="the end of a text: 513, not 7"):
        check_fit(model.config, processor)
    model.config.text_config.vocab_size = 100
    processor.image_processor = CLIPImageProcessorPil()
    with pytest.raises(ModelError) as caught:
        check_fit(model.config, processor)
    assert "images: 224 x 224, not 32 x 32; tokens: up to number 513, not 99" in caught.value.message
