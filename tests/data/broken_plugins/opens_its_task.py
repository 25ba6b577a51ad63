"""Its metrics are no list."""

from toolkit_sound import *


@hookimpl
def toolkit_metrics():
    return Confidence()
