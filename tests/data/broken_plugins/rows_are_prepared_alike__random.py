"""It prepares a row otherwise each time."""

import random

from toolkit_sound import *


@hookimpl
def toolkit_prepare():
    def prepare(row):
        ids = checked(row)
        return {"ids": ids, "weight": random.random()}

    return prepare
