"""It counts steps by itself, and begins anew after a resume."""

from toolkit_sound import *


@hookimpl
def toolkit_callbacks():
    from transformers import TrainerCallback

    class Decay(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, model=None, **kwargs):
            self.steps += 1
            for weights in model.parameters():
                weights.data *= 1 - 0.01 * self.steps

    return [Decay()]
