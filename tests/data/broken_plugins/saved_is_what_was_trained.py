"""It makes a new model each time, whatever was saved."""

import toolkit_sound
from toolkit_sound import *


@hookimpl
def toolkit_model(recipe):
    return toolkit_sound.toolkit_model(recipe.override(model="tiny"))
