"""It cannot be told of a run that is finished."""

from toolkit_sound import *


@hookimpl
def toolkit_run_finished(run):
    print(run.summary["after"]["accurracy"])
