"""It fails in the middle of a run."""

from toolkit_sound import *


@hookimpl
def toolkit_callbacks():
    from transformers import TrainerCallback

    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            assert state.global_step < 2, "the third step is one too many"

    return [Fails()]
