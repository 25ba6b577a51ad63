"""Extensions of each kind add to tasks that know nothing of them, alone and together."""

from __future__ import annotations

import codecs
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from toolkit_tasks import causal_lm, clip_contrastive

from tests.conftest import Install
from tests.core import tiny
from toolkit import PluginError, Recipe, RecipeError, Run, load_run, run
from toolkit.testing import Project

TASKS = ("tiny", "causal-lm", "clip-contrastive")
QUICK: dict[str, Any] = {
    "train": {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "eval_strategy": "no",
              "save_strategy": "no", "report_to": "none", "use_cpu": True},
    "eval": {"max_samples": 8},
    "data": {"limit": 16},
}  # fmt: skip


@pytest.fixture
def tasks(install: Install, in_tmp: Path) -> dict[str, Recipe]:
    """Tasks of three kinds, made to take a moment."""
    install("toolkit-tiny", plugins={"tiny": "toolkit_tiny"}, modules={"toolkit_tiny": tiny.PLUGIN})
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.rows(16)))
    bare = Recipe("tiny", plugins=["tiny"], model="tiny", data="rows.jsonl")
    samples = {"causal-lm": causal_lm.recipe, "clip-contrastive": clip_contrastive.recipe}
    return {name: recipe.override(**QUICK) for name, recipe in {"tiny": bare, **samples}.items()}


def with_plugins(recipe: Recipe, *names: str, **changes: Any) -> Recipe:
    return recipe.override(plugins=[*recipe.plugins, *names], **changes)


def put(install: Install, name: str, source: str, **modules: str) -> None:
    own = {f"toolkit_{name}.{module}": text for module, text in {"__init__": source, **modules}.items()}
    install(f"toolkit-{name}", plugins={name: f"toolkit_{name}"}, modules=own)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def train_losses(result: Run) -> list[float]:
    return [line["loss"] for line in lines(result.folder / "metrics.jsonl") if line["split"] == "train"]


# ---- a metric, a tracker -------------------------------------------------------------------------------

METRIC = """
    from toolkit import Metric, hookimpl

    class RowsMeasured(Metric):
        higher_is_better = True

        def __init__(self):
            self.rows = 0

        def update(self, scored):
            self.rows += len(scored.batch["row_id"])

        def merge(self, other):
            self.rows += other.rows

        def compute(self):
            return {"rows_measured": float(self.rows)}

    @hookimpl
    def toolkit_metrics():
        return [RowsMeasured()]
"""

TRACKER = """
    from toolkit import hookimpl

    @hookimpl
    def toolkit_callbacks(recipe):
        from toolkit_tracker.callback import Tracker
        return [Tracker("tracked.jsonl")]
"""
CALLBACK = """
    import json
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):
        def __init__(self, path):
            self.path = path

        def on_log(self, args, state, control, logs=None, **kwargs):
            with open(self.path, "a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\\n")
"""


@pytest.mark.parametrize("task", TASKS)
def test_a_metric_and_a_tracker(tasks: dict[str, Recipe], install: Install, task: str) -> None:
    put(install, "counter", METRIC)
    put(install, "tracker", TRACKER, callback=CALLBACK)
    result = run(with_plugins(tasks[task], "counter", "tracker"), "first")
    rows = result.summary["rows"]
    assert result.summary["after"]["rows_measured"] == (rows["test"] or rows["validation"]) > 0
    tracked = [line["loss"] for line in lines(Path("tracked.jsonl")) if "loss" in line]
    assert tracked == train_losses(result)
    assert len(tracked) == 2


# ---- augmentations -------------------------------------------------------------------------------------

AUGMENTATION = """
    from toolkit import hookimpl

    SEEN = []

    @hookimpl
    def toolkit_augment():
        def mark(row, generator):
            marks = [*row.get("marks", ()), "{name}"]
            SEEN.append((row["row_id"], marks))
            return {{**row, "marks": marks}}
        return mark
"""


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
@pytest.mark.parametrize("task", TASKS)
def test_augmentations_chain_in_the_order_that_is_shown(
    tasks: dict[str, Recipe], install: Install, project: Project, task: str, order: tuple[str, str]
) -> None:
    for name in order:
        put(install, name, AUGMENTATION.format(name=name))
    recipe = with_plugins(tasks[task], *order)
    run(recipe, "first")
    seen = sys.modules[f"toolkit_{order[1]}"].SEEN
    assert {tuple(marks) for _, marks in seen} == {order}
    assert len(seen) >= 8
    recipe.resolved().dump(project.folder / "mine.yaml")
    shown = project.run("check", "mine.yaml").assert_finished().out
    assert re.search(rf"^plugins +{', '.join(recipe.plugins)}$", shown, re.MULTILINE)


# ---- a data source -------------------------------------------------------------------------------------

SOURCE = """
    import codecs, json
    from toolkit import DataError, hookimpl

    @hookimpl
    def toolkit_dataset(recipe):
        kind, _, path = recipe.data.source.partition(":")
        return (lambda: read(path)) if kind == "rot13" else None

    def read(path):
        try:
            with open(path) as file:
                return {"train": [json.loads(codecs.decode(line, "rot13")) for line in file]}
        except OSError as error:
            raise DataError(f"{path} cannot be read", hint="name a file") from error
"""
ROWS = {
    "tiny": tiny.rows(20),
    "causal-lm": [{"prompt": f"What is {number}?", "completion": "A number."} for number in range(20)],
}


@pytest.mark.parametrize("task", ROWS)
def test_a_data_source(tasks: dict[str, Recipe], install: Install, task: str) -> None:
    put(install, "rot13", SOURCE)
    Path("secret").write_text("".join(codecs.encode(json.dumps(row), "rot13") + "\n" for row in ROWS[task]))
    recipe = with_plugins(tasks[task], "rot13", data={"source": "rot13:secret", "limit": None})
    rows = run(recipe, "first").summary["rows"]
    assert rows["train"] + rows["validation"] == 20
    assert load_run("first").evaluate()["rows"] == rows["validation"]
    assert run(
        recipe.override(data={"source": tasks["tiny"].data.source}) if task == "tiny" else tasks[task],
        "other",
    )


# ---- loss wrappers -------------------------------------------------------------------------------------

WRAPPER = """
    import dataclasses
    from toolkit import hookimpl

    @hookimpl
    def toolkit_wrap_loss():
        def wrap(loss):
            def changed(model, batch):
                plain = loss(model, batch)
                return dataclasses.replace(plain, total={total})
            return changed
        return wrap
"""


@pytest.mark.parametrize("task", ["tiny", "causal-lm"])
def test_a_loss_wrapper_changes_training_alone(tasks: dict[str, Recipe], install: Install, task: str) -> None:
    put(install, "adds", WRAPPER.format(total="plain.total + plain.count"))
    plain, wrapped = run(tasks[task], "plain"), run(with_plugins(tasks[task], "adds"), "wrapped")
    assert train_losses(wrapped) == pytest.approx([loss + 1 for loss in train_losses(plain)], rel=1e-5)
    assert wrapped.summary["after"] == plain.summary["after"]  # the constant has no gradient


def test_loss_wrappers_chain_in_order(tasks: dict[str, Recipe], install: Install) -> None:
    put(install, "adds", WRAPPER.format(total="plain.total + plain.count"))
    put(install, "doubles", WRAPPER.format(total="2 * plain.total"))
    first = {
        names: train_losses(run(with_plugins(tasks["tiny"], *names), "-".join(["run", *names])))[0]
        for names in ((), ("adds", "doubles"), ("doubles", "adds"))
    }
    assert first["adds", "doubles"] == pytest.approx(2 * (first[()] + 1))
    assert first["doubles", "adds"] == pytest.approx(2 * first[()] + 1)


def test_a_loss_wrapper_beside_a_step_of_ones_own_is_refused(
    tasks: dict[str, Recipe], install: Install
) -> None:
    put(install, "adds", WRAPPER.format(total="plain.total + plain.count"))
    with pytest.raises(PluginError) as caught:
        run(with_plugins(tasks["clip-contrastive"], "adds"), "first")
    assert (
        caught.value.message
        == "plugin 'adds' wraps the loss, and plugin 'clip' makes it in a step of its own"
    )
    assert not Path("first").exists()


# ---- a new kind of adapter -----------------------------------------------------------------------------

NORMS = """
    from toolkit import RecipeError, hookimpl

    @hookimpl
    def toolkit_check(recipe):
        unknown = set(recipe.adapter or ()) - {"kind"} if kind(recipe) == "norms" else ()
        return [RecipeError(f"adapter.{key}: norms have no settings", hint="leave it out") for key in unknown]

    @hookimpl
    def toolkit_adapt(recipe):
        return only_norms if kind(recipe) == "norms" else None

    def kind(recipe):
        return (recipe.adapter or {}).get("kind")

    def only_norms(model):
        for weights in model.parameters():
            weights.requires_grad_(weights.ndim == 1)
        return model
"""


@pytest.mark.parametrize("task", TASKS)
def test_a_new_kind_of_adapter(
    tasks: dict[str, Recipe], install: Install, project: Project, task: str
) -> None:
    put(install, "norms", NORMS)
    recipe = with_plugins(tasks[task].override(adapter=None), "norms", adapter={"kind": "norms"})
    result = run(recipe, "first")
    weights = load_file(result.folder / "model" / "model.safetensors")
    if task != "tiny":
        base = load_file(Path(recipe.resolved().model.name) / "model.safetensors")
        changed = {name for name, one in weights.items() if not one.equal(base[name].to(one.dtype))}
        assert changed
        assert {weights[name].ndim for name in changed} <= {0, 1}
    assert load_run("first").evaluate()["metrics"] == pytest.approx(result.summary["after"])
    recipe.resolved().dump(project.folder / "mine.yaml")
    document = project.run("check", "mine.yaml", "--json").assert_finished().json
    assert 0 < document["parameters"]["trainable"] < document["parameters"]["total"]


def test_faults_of_a_new_kind_are_the_plugins_to_find(tasks: dict[str, Recipe], install: Install) -> None:
    put(install, "norms", NORMS)
    recipe = tasks["tiny"].override(adapter={"kind": "norms", "r": 4})
    with pytest.raises(RecipeError, match=r"adapter\.r: norms have no settings"):
        run(with_plugins(recipe, "norms"), "first")
    with pytest.raises(RecipeError, match=r"adapter\.kind: "):
        run(recipe, "first")


# ---- a new way to quantize -----------------------------------------------------------------------------

ROUNDED = """
    from toolkit import hookimpl

    @hookimpl
    def toolkit_quantize(recipe):
        asked = recipe.model.quantization
        if isinstance(asked, str) or "rounded_bits" not in asked:
            return None
        from toolkit_rounded.backend import RoundedConfig
        return lambda: {"quantization_config": RoundedConfig(asked["rounded_bits"])}
"""
BACKEND = """
    from torch import nn
    from transformers.quantizers import HfQuantizer
    from transformers.quantizers.auto import register_quantization_config, register_quantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    @register_quantization_config("rounded")
    class RoundedConfig(QuantizationConfigMixin):
        def __init__(self, bits, **kwargs):
            self.quant_method, self.bits = "rounded", bits

    @register_quantizer("rounded")
    class RoundedQuantizer(HfQuantizer):
        requires_calibration = False
        is_trainable = True

        def is_serializable(self):
            return False

        def _process_model_before_weight_loading(self, model, **kwargs):
            return model

        def _process_model_after_weight_loading(self, model, **kwargs):
            levels = 2 ** (self.quantization_config.bits - 1) - 1
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    step = module.weight.data.abs().max() / levels
                    module.weight.data = (module.weight.data / step).round() * step
            return model
"""


@pytest.fixture
def rounding(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.quantizers import auto

    for name in ("AUTO_QUANTIZER_MAPPING", "AUTO_QUANTIZATION_CONFIG_MAPPING"):
        monkeypatch.setattr(auto, name, dict(getattr(auto, name)))
    put(install, "rounded", ROUNDED, backend=BACKEND)


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("task", ["causal-lm", "clip-contrastive"])
def test_a_new_way_to_quantize(tasks: dict[str, Recipe], task: str) -> None:
    recipe = with_plugins(tasks[task], "rounded", model={"quantization": {"rounded_bits": 4}})
    result = run(recipe, "first")
    assert result.model.is_quantized
    frozen = next(
        one for name, one in result.model.named_parameters() if name.endswith("q_proj.base_layer.weight")
    )
    assert len(frozen.unique()) <= 15
    assert load_run("first").evaluate()["metrics"] == pytest.approx(result.summary["after"], rel=1e-4)


@pytest.mark.usefixtures("rounding")
def test_two_ways_to_quantize_at_once_are_refused(tasks: dict[str, Recipe], install: Install) -> None:
    put(install, "other", ROUNDED)
    changes = {"model": {"quantization": {"rounded_bits": 4}}}
    with pytest.raises(PluginError) as caught:
        run(with_plugins(tasks["causal-lm"], "rounded", "other", **changes), "first")
    assert caught.value.message == "plugins 'rounded' and 'other' both answer toolkit_quantize"
    assert caught.value.hint == "name just one of them in the recipe's `plugins`"
    with pytest.raises(RecipeError, match=r"model\.quantization\.rounded_bits: unknown key"):
        run(tasks["causal-lm"].override(**changes), "first")


# ---- all together --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rounding")
def test_all_of_them_together(tasks: dict[str, Recipe], install: Install) -> None:
    put(install, "counter", METRIC)
    put(install, "tracker", TRACKER, callback=CALLBACK)
    put(install, "first", AUGMENTATION.format(name="first"))
    put(install, "adds", WRAPPER.format(total="plain.total + plain.count"))
    put(install, "rot13", SOURCE)
    names = ["counter", "tracker", "first", "adds", "rot13", "rounded"]
    Path("secret").write_text(
        "".join(codecs.encode(json.dumps(row), "rot13") + "\n" for row in ROWS["causal-lm"])
    )
    changes = {"data": {"source": "rot13:secret"}, "model": {"quantization": {"rounded_bits": 8}}}
    result = run(with_plugins(tasks["causal-lm"], *names, **changes), "first")
    assert result.summary["status"] == "finished"
    assert result.summary["after"]["rows_measured"] > 0
    assert len(lines(Path("tracked.jsonl"))) >= 2
    assert sys.modules["toolkit_first"].SEEN
