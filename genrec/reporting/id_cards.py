"""Tables of semantic IDs as the page draws them: heat maps, groups, and what its script reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genrec.reporting.id_view import IdView
from genrec.reporting.plots import Bars, bar_plot
from genrec.reporting.subject import Missing

__all__ = ["id_card", "page_data"]


def id_card(view: IdView) -> dict[str, Any]:
    """Add to a table of IDs what the template would have to compute."""
    plot, found = None, view.collisions
    if not isinstance(found, Missing) and len(found.sizes) > 1:
        plot = bar_plot(
            "Items that share all codes with others",
            found.sizes[1:],
            [
                Bars("before repair", found.before[1:], "base-1"),
                Bars("after", found.after[1:], "run-1"),
            ],
            x_label="items with the same codes",
        )
    cells = []
    for use in view.use:
        side = max(1, int(np.ceil(np.sqrt(len(use.counts)))))
        most = max(int(use.counts.max(initial=0)), 1)
        cells.append(
            {
                "use": use,
                "side": side,
                "height": -(-len(use.counts) // side),
                "most": most,
                "cells": [
                    (i % side, i // side, round((count / most) ** 0.7, 2), count)
                    for i, count in enumerate(use.counts.tolist())
                ],
            }
        )
    return {"view": view, "collision_plot": plot, "heat": cells}


def page_data(views: Sequence[IdView]) -> dict[str, Any]:
    """Gather what the page's script draws: titles once, codes and places of each table."""
    items, tables = {}, []
    for view in views:
        name = view.table.items_fingerprint
        rows = view.rows.tolist()
        items[name] = {"titles": [view.title(row) for row in rows]}
        place = view.place
        tables.append(
            {
                "id": view.key,
                "items": name,
                "codes": np.asarray(view.table.ids)[view.rows].T.tolist(),
                "words": view.words,
                "x": [] if isinstance(place, Missing) else place.x.tolist(),
                "y": [] if isinstance(place, Missing) else place.y.tolist(),
            }
        )
    return {"items": items, "tables": tables}
