"""Its confidence is a moving mean."""

from toolkit_sound import *


class Moving(Confidence):
    def update(self, scored):
        given, every = counts(scored)
        self.given, self.all = 0.9 * self.given + given, 0.9 * self.all + every


@hookimpl
def toolkit_metrics():
    return [Moving()]
