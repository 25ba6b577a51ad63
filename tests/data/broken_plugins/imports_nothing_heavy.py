"""It imports torch as it is imported."""

import torch
from toolkit_sound import *

DEVICE = torch.device("cpu")
