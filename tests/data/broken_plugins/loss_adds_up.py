"""Its loss is a mean."""

from toolkit_sound import *


@hookimpl
def toolkit_loss():
    def loss(model, batch):
        total, logits = summed(model, batch)
        return Loss(total / batch["num_targets"], batch["num_targets"], outputs=logits)

    return loss
