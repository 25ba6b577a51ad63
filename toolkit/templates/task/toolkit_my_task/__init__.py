"""Image classification: an image in, one of the recipe's classes out.

Rows need `image` (a file, its bytes, or a `PIL.Image.Image`) and `label`, the name of a class; the
metric is `accuracy`. Only the hooks stand here: what needs torch is in `parts`, which they import
when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit import Batch, Column, Loss, Metric, Recipe, RecipeError, Row, Scored, hookimpl

toolkit_contract = 1


@dataclass(frozen=True)
class MyTaskSettings:
    """The section `my-task` of a recipe.

    Attributes:
        classes: their names, in the order of the model's outputs.
    """

    classes: tuple[str, ...] = ()


@hookimpl
def toolkit_settings() -> type:
    return MyTaskSettings


@hookimpl
def toolkit_check(recipe: Recipe) -> Sequence[Exception]:
    classes = recipe.settings(MyTaskSettings).classes
    if len(set(classes)) == len(classes) >= 2:
        return []
    hint = "for example --set my-task.classes='[cat, dog]'"
    return [RecipeError("my-task.classes: expected two different names or more", hint)]


@hookimpl
def toolkit_columns() -> Sequence[Column]:
    files = ("file_name", "path", "file", "img", "picture", "jpg", "png")
    return [
        Column("image", usual=files, names_file=True),
        Column("label", usual=("class", "class_name", "category")),
    ]


@hookimpl
def toolkit_model(recipe: Recipe) -> Callable[[], tuple[Any, Any]]:
    from toolkit_my_task.parts import load

    return lambda: load(recipe.model, recipe.settings(MyTaskSettings).classes)


@hookimpl
def toolkit_prepare(recipe: Recipe) -> Callable[[Row], Row]:
    from toolkit_my_task.parts import Prepare

    return Prepare(recipe.settings(MyTaskSettings).classes)


@hookimpl
def toolkit_collator(processor: Any) -> Callable[[list[Row]], Batch]:
    from toolkit_my_task.parts import Collator

    return Collator(processor)


@hookimpl
def toolkit_loss() -> Callable[[Any, Batch], Loss]:
    from toolkit_my_task.parts import classification_loss

    return classification_loss


@hookimpl
def toolkit_evaluate_batch(recipe: Recipe) -> Callable[[Any, Batch], Scored]:
    from toolkit_my_task.parts import Evaluate

    return Evaluate(recipe.settings(MyTaskSettings).classes)


@hookimpl
def toolkit_metrics() -> Sequence[Metric]:
    from toolkit_my_task.parts import Accuracy

    return [Accuracy()]


@hookimpl
def toolkit_predict(recipe: Recipe, model: Any, processor: Any) -> Callable[[list[str]], list[str]]:
    from toolkit_my_task.parts import Predict

    return Predict(model, processor, recipe.settings(MyTaskSettings).classes)
