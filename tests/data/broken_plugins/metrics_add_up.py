"""Its confidence is a mean over batches of whatever size."""

from toolkit_sound import *


class MeanOfMeans(Confidence):
    def update(self, scored):
        given, every = counts(scored)
        self.given, self.all = self.given + given / every, self.all + 1


@hookimpl
def toolkit_metrics():
    return [MeanOfMeans()]
