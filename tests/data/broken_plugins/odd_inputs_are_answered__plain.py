"""Its predictions are no plain data."""

import toolkit_sound
from toolkit_sound import *


@hookimpl
def toolkit_predict(model):
    import torch

    return lambda inputs: [torch.tensor(len(one)) for one in inputs]
