"""It predicts from whatever it is given."""

from toolkit_sound import *


@hookimpl
def toolkit_predict():
    return lambda inputs: [int(one.split()[-1]) + 1 for one in inputs]
