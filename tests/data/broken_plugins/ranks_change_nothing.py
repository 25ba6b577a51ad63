"""Its step compares rows with one another, and forgets those of other processes."""

from toolkit_sound import *


@hookimpl
def toolkit_step():
    def step(model, batch, backward):
        mean = summed(model, batch)[0] / batch["num_targets"]
        total = mean**2 * batch["num_targets"]
        backward(total)
        return Loss(total.detach(), batch["num_targets"])

    return step
