"""Its confidence forgets what other processes have counted."""

from toolkit_sound import *


class Alone(Confidence):
    def merge(self, other):
        pass


@hookimpl
def toolkit_metrics():
    return [Alone()]
