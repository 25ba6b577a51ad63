"""A short run of `causal-lm`, on its sample, that shows what the extension adds."""

from toolkit_tasks.causal_lm import recipe as causal_lm

recipe = causal_lm.override(
    name="my-extension",
    plugins=["causal-lm", "my-extension"],
    train={"max_steps": 10, "eval_strategy": "no", "save_strategy": "no"},
    eval={"max_samples": 16},
)
