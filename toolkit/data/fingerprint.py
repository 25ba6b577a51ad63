"""A short name for the data of a run: another name means other data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from toolkit.data.splits import Rows


def fingerprint(splits: Mapping[str, Rows]) -> str:
    """16 hex digits over the rows of all splits, in order.

    Files that rows name count with their sizes, not their contents; neither times nor absolute paths count,
    so a folder and its copy have the same fingerprint. Of objects that compute their rows, a hundred count.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, rows in sorted(splits.items()):
        digest.update(f"{name} {len(rows)}\n".encode())
        for piece in rows.source.contents(rows.ids):
            digest.update(len(piece).to_bytes(8, "little"))
            digest.update(piece)
    return digest.hexdigest()
