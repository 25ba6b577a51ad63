"""One of its hooks is misspelt."""

from toolkit_sound import *


@hookimpl
def toolkit_run_finishd(run):
    print(run.folder)
