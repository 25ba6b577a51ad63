"""What it says of its batch was true once."""

import toolkit_sound
from toolkit_sound import *


@hookimpl
def toolkit_collator():
    collate_well = toolkit_sound.toolkit_collator()

    def collate(rows):
        """`input_ids`, `attention_mask`, `labels` (rows, tokens) int64; `weights` (rows,) float32."""
        return collate_well(rows)

    return collate
