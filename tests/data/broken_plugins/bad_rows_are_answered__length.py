"""It measures each row as if it were a good one."""

from toolkit_sound import *


@hookimpl
def toolkit_row_length():
    return lambda row: float(len(row["ids"]))
