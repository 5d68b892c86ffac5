"""Where a service finds what it serves."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from genrec.errors import ArtifactError, MissingPathError
from genrec.serving.http.answers import Query, answer_all
from genrec.serving.http.refusals import Refusal
from genrec.serving.ranking import with_beams
from genrec.serving.recommender import Recommender
from genrec.serving.shelf import Shelf

__all__ = ["Source", "fits"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a service finds what it serves.

    Attributes:
        run: The run's folder, or a name on the hub.
        data: Prepared data set of the users who may be named; the run's own when None.
        device: Where to compute; a GPU where there is one when None.
        num_beams: Beams of the search; those of the run when None.
        models: Folder below which a newer run may be swapped in; None for ``run`` alone.
        journal: File that keeps the changes; None where nothing may be changed.
        adopt: Make the changes of another run's journal on ``run``.
    """

    run: str
    data: Path | None = None
    device: str | None = None
    num_beams: int | None = None
    models: Path | None = None
    journal: Path | None = None
    adopt: bool = False

    def open(self, path: str | os.PathLike[str]) -> Recommender:
        """Open a run as this service serves it, ready to answer at once.

        Raises:
            GenRecError: If it cannot be served.
        """
        recommender = Recommender.from_pretrained(path, data=self.data, device=self.device)
        if self.data is not None and str(path) != self.run and not fits(recommender):
            recommender = Recommender.from_pretrained(path, device=self.device)
        recommender = _with_beams(recommender, self.num_beams)
        shelf = recommender.shelf
        if shelf.catalogue.num_items:
            key = shelf.catalogue.item_keys[0]
            answers = answer_all(shelf, recommender.users, [Query(histories=[[key]], users=[key])])
            if isinstance(answers[0], Exception):
                raise answers[0]
        return recommender

    def allowed(self, path: str | None) -> Path | str:
        """Find a folder that may be served; None stands for the run.

        Raises:
            Refusal: If it is none below ``models``.
        """
        if path is None or path == self.run:
            return self.run
        root = self.models
        if root is None:
            raise Refusal(
                403, f"path must be left out, got {path!r}; start the service with --models"
            )
        try:
            folder = (root / path).resolve()
            inside = folder.is_relative_to(root.resolve()) and folder.is_dir()
        except (OSError, RuntimeError, ValueError):  # too long, a circle of links, a NUL
            inside = False
        if not inside:
            raise Refusal(
                422, f"path must be a run's folder below the one of --models, got {path!r}"
            )
        return folder


def fits(recommender: Recommender) -> bool:
    """Whether there is a data set whose users may be named."""
    try:
        return recommender.data.num_users >= 0
    except (ArtifactError, MissingPathError):
        return False


def _with_beams(recommender: Recommender, num_beams: int | None) -> Recommender:
    """Search with another number of beams, after later changes of the items too."""
    run = recommender.shelf.run
    if num_beams is None or run is None:
        return recommender
    with_beams(run.ranker, num_beams)  # refuses a model without beams, and no beams
    options = {**run.options, "num_beams": num_beams}
    run = replace(run, options=options, ranker=run.model.ranker(run.catalogue, options))
    return Recommender.of_shelf(Shelf.of(run.ranker, run.catalogue, run), recommender.users)
