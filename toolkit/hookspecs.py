"""The whole plugin contract, in calling order.

A plugin is a module (or an object, not a class) whose functions carry `@toolkit.hookimpl` and are spelt as here. A
hook may ask for any of its arguments, or none. *Build* hooks return None ("not mine") or a callable, which the core
calls later: two answers are an error that names both plugins, no answer means the default that is stated. Hooks that
return lists add up over the plugins. Plugins are asked in the order in which the recipe names them, which `toolkit
check` shows; `--trace-hooks` shows each call. A plugin is imported only by runs whose recipe names it, and should
import torch and the like inside its hooks.

The contract has a version, `CONTRACT`, which grows by one with each change; what is changed so that plugins must change
too makes `OLDEST_CONTRACT` follow. A plugin may say which one it is written for: `toolkit_contract = 1`, beside its
hooks. It is refused, with what to upgrade, where that is newer than `CONTRACT` or older than `OLDEST_CONTRACT`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import TrainerCallback

    from toolkit.recipe import Recipe
    from toolkit.runs import Run
    from toolkit.types import Batch, Column, Loss, Metric, Row, Scored, Splits, Stage

CONTRACT = 1
OLDEST_CONTRACT = 1

hookspec = pluggy.HookspecMarker("toolkit")
hookimpl = pluggy.HookimplMarker("toolkit")


@hookspec
def toolkit_settings() -> type | None:
    """The plugin's own settings: a dataclass whose fields all have defaults.

    When: first of all, when the plugin is loaded. Its section in a recipe has the plugin's name; a key that is no
    field, or a value of another type, is refused. Read it in any other hook with `recipe.settings(MySettings)`.
    The types of its fields must be importable at run time, not only under `TYPE_CHECKING`.

        @dataclass(frozen=True)
        class VitSettings:
            crop: int = 224

        @hookimpl
        def toolkit_settings():
            return VitSettings
    """


@hookspec
def toolkit_check(recipe: Recipe) -> Sequence[Exception] | None:
    """Faults of the recipe that can be known before anything heavy is imported: a list of `ToolkitError`s.

    When: before each run, after the structure is known to be right. Faults of all plugins are shown together.

        @hookimpl
        def toolkit_check(recipe):
            if recipe.settings(VitSettings).crop % 16:
                return [RecipeError("vit.crop: must be a multiple of 16", hint="the patch size is 16")]
    """


@hookspec
def toolkit_dataset(recipe: Recipe) -> Callable[[], Splits] | None:
    """Build: `() -> {"train": rows, "validation": rows, "test": rows}`, sequences of raw rows.

    When: at the start of a run. Default: what `data.source` names (folders, files, hub ids, the sample).
    Errors: `DataError` when the source cannot be read.

        @hookimpl
        def toolkit_dataset(recipe):
            if recipe.data.source.startswith("redis:"):
                return lambda: read_redis(recipe.data.source)
    """


@hookspec
def toolkit_columns(recipe: Recipe) -> Sequence[Column] | None:
    """The columns the plugin reads from a row, with the names users usually give them.

    When: once the data source is open, before any row is read. The core renames what it recognises or what
    `data.columns` maps, keeps the other columns, and refuses data without a required one, saying which there are.
    The rows that a column with `holds_rows` lists come in place of the one they are in.

        @hookimpl
        def toolkit_columns(recipe):
            return [Column("image", usual=("img", "file_name")), Column("label", usual=("class",))]

    Where a row may have one of several shapes, their columns share a name in `one_of`: data needs one of them. Metrics
    find what rows hold in a column that is `in_batch`: `scored.batch["columns"]["speaker"]`, a list.
    """


@hookspec
def toolkit_model(recipe: Recipe) -> Callable[[], tuple[Any, Any]] | None:
    """Build: `() -> (model, processor)`, freshly loaded from `recipe.model`, on the CPU, nothing frozen.

    When: once per run. `toolkit.load_model(recipe.model, SomeModelClass)` honours revision, dtype, quantization and
    the rest. The processor is whatever prepares inputs; it is saved beside the model with `save_pretrained`.
    There is no default: a run needs one plugin that answers.
    Errors: `ModelError` when the model cannot be loaded.

        @hookimpl
        def toolkit_model(recipe):
            def load():
                from transformers import AutoImageProcessor, ViTForImageClassification
                return (load_model(recipe.model, ViTForImageClassification),
                        load_processor(recipe.model, AutoImageProcessor))
            return load
    """


@hookspec
def toolkit_quantize(recipe: Recipe) -> Callable[[], Mapping[str, Any]] | None:
    """Build: `() -> arguments` of `from_pretrained`, with which the model is quantized as it is loaded.

    When: as a model is about to be loaded, where `model.quantization` is not none: 4bit, 8bit, or a mapping with keys
    of the plugin's own. `toolkit.load_model` passes the arguments on, whichever plugin calls it.
    Default: bitsandbytes, whose `BitsAndBytesConfig` has the mapping's keys as fields.
    Errors: `RecipeError` where the mapping is wrong, `ModelError` where the machine cannot do it.

        @hookimpl
        def toolkit_quantize(recipe):
            asked = recipe.model.quantization
            if asked != "4bit" and "hqq_bits" in asked:
                return lambda: {"quantization_config": HqqConfig(nbits=asked["hqq_bits"])}
    """


@hookspec
def toolkit_given(recipe: Recipe, model: Any, processor: Any) -> None:
    """Set up a model and a processor that were given in code as `toolkit_model` sets up those that it loads.

    When: once such a run begins, before the adapter; `processor` is None where just a model was given.
    Errors: `ModelError` where they do not belong together, `RecipeError` where they cannot do what the settings say.

        @hookimpl
        def toolkit_given(recipe, model, processor):
            if processor is None:
                raise ModelError("the model was given without its processor", hint="give it too: processor=...")
            processor.size = recipe.settings(VitSettings).size
    """


@hookspec
def toolkit_adapt(recipe: Recipe) -> Callable[[Any], Any] | None:
    """Build: `(model) -> model`, with what shall not be trained frozen.

    When: after the model is loaded, where the recipe has an `adapter`, and before, to learn whether it is the plugin's:
    then `toolkit_check` is what finds its faults. An adapter of PEFT is saved and loaded as one; of any other model all
    weights are saved, and loaded as `toolkit_model` does. Default: `toolkit.adapt`, that is PEFT.

        @hookimpl
        def toolkit_adapt(recipe):
            return freeze_all_but_the_head if recipe.adapter.get("kind") == "head" else None
    """


@hookspec
def toolkit_inspect(recipe: Recipe, processor: Any) -> Callable[[Row], Mapping[str, float | str]] | None:
    """Build: `(row) -> facts`, what can be said of a raw row at little cost, from headers, without decoding it.

    When: over up to 1000 rows, evenly spread, by `toolkit check` and before each run. Numbers are summed up by their
    least, median and largest, texts are counted. The fact `noted`, a text, is also told as a run begins, with the
    number of rows it holds for. Default: nothing is said, and runs find bad rows as they meet them.
    Errors: `DataError` for a row that `toolkit_prepare` would refuse; its `facts` may hold what was found by then.
    A run is refused when they are more than `data.max_bad_fraction` of the rows.

        @hookimpl
        def toolkit_inspect(recipe, processor):
            def look(row):
                width, height = size_in_header(row["image"])
                return {"width": width, "height": height, "label": row["label"]}
            return look
    """


@hookspec
def toolkit_row_length(recipe: Recipe) -> Callable[[Row], float] | None:
    """Build: `(raw row) -> length`, in any unit that tells how much work a row is, from headers, without decoding it.

    When: once for each row, before its split is first used, where the recipe has `train.train_sampling_strategy:
    group_by_length`: batches are made of rows of about the same length then, in evaluation the longest
    first. A run that asks for it and has no answer is refused. A row for which it raises `DataError`
    counts as having no length.

        @hookimpl
        def toolkit_row_length(recipe):
            return lambda row: float(pixels_in_header(row["image"]))
    """


@hookspec
def toolkit_prepare(recipe: Recipe, processor: Any) -> Callable[[Row], Row] | None:
    """Build: `(row) -> row`, what one raw row becomes before it is collated: decoded, tokenised.

    When: each time a row is needed, in a data worker; it must be pure. Default: rows stay as they are.
    Errors: `DataError` for a row that cannot be used; it is put into quarantine and the run goes on.

        @hookimpl
        def toolkit_prepare(recipe, processor):
            return lambda row: {**row, "image": open_rgb(row["image"])}
    """


@hookspec
def toolkit_show(recipe: Recipe, processor: Any) -> Callable[[Row], str] | None:
    """Build: `(prepared row) -> text`, the row as the model will see it, for people to read.

    When: `toolkit check`, for the first training row. Default: the row's columns, each cut short.

        @hookimpl
        def toolkit_show(recipe, processor):
            return lambda row: f"{row['image'].width} x {row['image'].height} pixels: {row['label']}"
    """


@hookspec
def toolkit_augment(recipe: Recipe) -> Callable[[Row, torch.Generator], Row] | None:
    """Build, and chains: `(row, generator) -> row`, a random change to a prepared row.

    When: after `toolkit_prepare`, for training rows only, in the order the recipe names the plugins. All
    randomness must come from the generator, seeded by (seed, epoch, row): so a resumed run sees the same rows.

        @hookimpl
        def toolkit_augment(recipe):
            def flip(row, generator):
                return {**row, "image": mirrored(row["image"])} if torch.rand((), generator=generator) < 0.5 else row
            return flip
    """


@hookspec
def toolkit_collator(recipe: Recipe, processor: Any) -> Callable[[list[Row]], Batch] | None:
    """Build: `(rows) -> batch`, tensors for the model with `num_targets` and `row_id` (see `toolkit.types.Batch`).

    When: for each batch, in a data worker. There is no default.

        @hookimpl
        def toolkit_collator(recipe, processor):
            def collate(rows):
                pixels = processor([row["image"] for row in rows], return_tensors="pt").pixel_values  # (B, 3, H, W)
                return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows]),
                        "num_targets": len(rows), "row_id": torch.tensor([row["row_id"] for row in rows])}
            return collate
    """


@hookspec
def toolkit_loss(recipe: Recipe) -> Callable[[Any, Batch], Loss] | None:
    """Build: `(model, batch) -> Loss`, summed over the batch's targets, not averaged.

    When: in each forward of training, and in evaluation unless `toolkit_evaluate_batch` is answered. The core
    divides once, by the targets of all micro-batches and ranks, so accumulation changes nothing.
    Default: the model's own mean `.loss`, times `num_targets`.

        @hookimpl
        def toolkit_loss(recipe):
            def loss(model, batch):
                logits = model(pixel_values=batch["pixel_values"]).logits  # (B, C)
                return Loss(cross_entropy(logits, batch["labels"], reduction="sum"), batch["num_targets"])
            return loss
    """


@hookspec
def toolkit_wrap_loss(
    recipe: Recipe,
) -> Callable[[Callable[[Any, Batch], Loss]], Callable[[Any, Batch], Loss]] | None:
    """Build, and chains: `(loss) -> loss`, the training loss with something added to it or taken from it.

    When: as the trainer is made, in the order the recipe names the plugins: each is given what those before it made
    of `toolkit_loss`'s answer. Evaluation measures that answer as it is, so that runs can be compared.
    Errors: refused beside a plugin that answers `toolkit_step`, for that makes the loss itself.

        @hookimpl
        def toolkit_wrap_loss(recipe):
            def penalised(loss):
                def with_penalty(model, batch):
                    plain = loss(model, batch)
                    penalty = plain.outputs.square().mean() * plain.count  # is divided by the targets, as all is
                    return dataclasses.replace(plain, total=plain.total + 1e-4 * penalty)
                return with_penalty
            return penalised
    """


@hookspec
def toolkit_step(recipe: Recipe) -> Callable[[Any, Batch, Callable[[Tensor], None]], Loss] | None:
    """Build: `(model, batch, backward) -> Loss`, a training step of one's own, for losses that do not add up.

    When: in training, in place of `toolkit_loss`, for each batch of `train.per_device_train_batch_size` rows. It runs
    the model forwards itself, once or in parts, and hands `backward` one or more scalars whose gradients add up to that
    of the batch's `total`; scaling, mixed precision and the parameters' gradients are the core's. `model` is wrapped
    where there are several ranks: between the parts its `no_sync()` keeps gradients local. `total` is then this rank's
    share, so that the ranks' shares add up; a rank for which the last step of an epoch has no row left is given a batch
    with `num_targets` 0, which takes part and counts for nothing. Batches are told from one another: accumulating
    gradients averages over them, and a notice says so. Evaluation uses `toolkit_evaluate_batch` or `toolkit_loss`.
    Default: `backward` of `toolkit_loss`'s total.

        @hookimpl
        def toolkit_step(recipe):
            def step(model, batch, backward):
                scores = model(pixel_values=batch["pixel_values"]).logits.flatten()  # (B,)
                pairs = softplus(scores[batch["better"]] - scores[batch["worse"]])  # of rows with one another
                total = pairs.mean() * batch["num_targets"]
                backward(total)
                return Loss(total.detach(), batch["num_targets"])
            return step
    """


@hookspec
def toolkit_callbacks(recipe: Recipe) -> Sequence[TrainerCallback] | None:
    """`transformers.TrainerCallback`s, a list, for what shall happen in the course of training.

    When: as the trainer is made.

        @hookimpl
        def toolkit_callbacks(recipe):
            return [MyTracker()]
    """


@hookspec
def toolkit_frozen_stages(recipe: Recipe, model: Any) -> Sequence[Stage] | None:
    """Parts of the model, called with a batch, whose output for a row depends on that row alone; adds up.

    When: before the run measures and trains, and before `toolkit eval` measures, after the adapter. Where nothing in a
    stage trains, its outputs are computed once for each input, kept in the cache and reused, by later runs too.
    Default: none.

        @hookimpl
        def toolkit_frozen_stages(recipe, model):
            return [Stage("image encoder", model.vit, outputs=("last_hidden_state",))]
    """


@hookspec
def toolkit_evaluate_batch(recipe: Recipe, processor: Any) -> Callable[[Any, Batch], Scored] | None:
    """Build: `(model, batch) -> Scored`, the loss and what the metrics need, from one forward where possible.

    When: asked at the start of each evaluation, so the answer may count what it has seen; called for each batch, in
    evaluation mode, without gradients.
    Default: the loss alone; its `outputs` are there for the metrics.

        @hookimpl
        def toolkit_evaluate_batch(recipe, processor):
            def evaluate(model, batch):
                loss = classification_loss(model, batch)
                return Scored(loss, batch, predictions=loss.outputs.argmax(-1).tolist())
            return evaluate
    """


@hookspec
def toolkit_metrics(recipe: Recipe, processor: Any) -> Sequence[Metric] | None:
    """Fresh metrics, a list; those of all plugins are computed.

    When: at the start of each evaluation; beforehand, for the names, by `toolkit check`, and by a run where
    `train.metric_for_best_model` needs them.
    Errors: two metrics that give the same name are refused.

        @hookimpl
        def toolkit_metrics(recipe):
            return [Accuracy()]
    """


@hookspec
def toolkit_predict(
    recipe: Recipe, model: Any, processor: Any, columns: Mapping[str, str]
) -> Callable[[list[str]], list[Any] | Mapping[str, Any]] | None:
    """Build: `(inputs) -> outputs`, what the model makes of the inputs of `toolkit predict`: text, or plain JSON.

    When: the model of a run is used. There is no default. A list has one output for each input. Where inputs are
    taken together, a mapping has an output for each of those that get one. `columns` has the data's name of each
    column that the plugins found in the run's training rows: what its rows were like.
    Errors: `DataError` for an input that cannot be used.

        @hookimpl
        def toolkit_predict(recipe, model, processor):
            return lambda paths: [model.config.id2label[best_class(path)] for path in paths]
    """


@hookspec
def toolkit_run_finished(run: Run) -> None:
    """Observe a run that is complete: `run.folder`, `run.summary`.

    When: last, after everything is written.

        @hookimpl
        def toolkit_run_finished(run):
            print(run.folder, run.summary["after"])
    """


@hookspec
def toolkit_run_failed(run: Run, error: BaseException) -> None:
    """Observe a run that ended early, by an error or by a signal; what is written so far stays.

    When: after the summary with its status is written; the error goes on to the caller.

        @hookimpl
        def toolkit_run_failed(run, error):
            print(run.folder, type(error).__name__)
    """
