"""It takes each row for a good one."""

from toolkit_sound import *


@hookimpl
def toolkit_prepare():
    return lambda row: {"ids": [int(one) for one in row["ids"]]}
