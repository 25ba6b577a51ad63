"""What its stage gives a row depends on the rows beside it."""

import functools

from toolkit_sound import *


@functools.cache
def company():
    import torch

    class Company(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.share = torch.nn.Parameter(torch.ones(()))

        def forward(self, ids):
            return ids - self.share * ids.float().mean(dim=0)

    return Company()


@hookimpl
def toolkit_frozen_stages():
    return [Stage("company", company())]


@hookimpl
def toolkit_evaluate_batch():
    def evaluate(model, batch):
        total, logits = summed(model, batch)
        told = [row.tolist() for row in company()(batch["input_ids"])]
        return Scored(Loss(total, batch["num_targets"], outputs=logits), batch, predictions=told)

    return evaluate
