"""What goes over the wire, checked at the door; the schema of ``/openapi.json``."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from genrec.serving.http.settings import (
    MAX_HISTORIES,
    MAX_HISTORY,
    MAX_K,
    MAX_KEY,
    MAX_LISTED,
    MAX_NEW_ITEMS,
    MAX_TEXT,
    MAX_VECTOR,
)
from genrec.serving.items import LONGEST_VECTOR

__all__ = [
    "AddAnswer",
    "AddRequest",
    "ErrorAnswer",
    "FoundAnswer",
    "InfoAnswer",
    "ItemAnswer",
    "ModelRequest",
    "RecommendAnswer",
    "RecommendRequest",
    "RemoveAnswer",
    "SimilarAnswer",
    "UserAnswer",
]

_Text = Annotated[StrictStr, Field(min_length=1, max_length=MAX_KEY)]
_Number = Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)]
ItemKey = _Text | _Number
_History = Annotated[list[ItemKey], Field(max_length=MAX_HISTORY)]
_Listed = Annotated[list[ItemKey], Field(max_length=MAX_LISTED)]
_Coordinate = Annotated[float, Field(ge=-3e38, le=3e38, allow_inf_nan=False)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RecommendRequest(_Message):
    """For whom, how many, and from what."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["histories"]}, {"required": ["users"]}],
            "examples": [
                {"histories": [["G0316", "G0649"]], "k": 5},
                {"users": ["u0017"], "k": 10, "exclude": ["G0316"], "explain": True},
            ],
        }
    )

    histories: Annotated[list[_History], Field(max_length=MAX_HISTORIES)] | None = Field(
        default=None,
        description="Item keys of each user, oldest first.",
    )
    users: Annotated[list[ItemKey], Field(max_length=MAX_HISTORIES)] | None = Field(
        default=None,
        description="The users' own ids: without histories those of the data set; else as many.",
    )
    k: Annotated[StrictInt, Field(ge=1, le=MAX_K, description="Items for each user.")] = 10
    exclude_seen: Annotated[bool, Field(description="Leave out what a history holds.")] = True
    exclude: Annotated[_Listed, Field(description="Items to leave out.")] = []
    allow: _Listed | None = Field(
        default=None,
        description="The only items to choose from; all when left out.",
    )
    on_unknown: Annotated[
        Literal["ignore", "raise"], Field(description="What to do with keys that are not known.")
    ] = "ignore"
    explain: Annotated[bool, Field(description="Add codes, and why.")] = False

    @model_validator(mode="after")
    def _check_users(self) -> RecommendRequest:
        histories, users = self.histories, self.users
        if histories is None and users is None:
            raise ValueError("histories or users must be given, got neither; give item keys")
        if histories is not None and users is not None and len(histories) != len(users):
            raise ValueError(
                f"users must be as many as histories, {len(histories)}, got {len(users)}; give one "
                "for each history"
            )
        return self


class Named(_Message):
    """An item."""

    item: str | int
    title: str


class Why(_Message):
    """The item of the history that a result is most like."""

    nearest: Named
    shared_prefix: int | None = Field(description="Codes that both begin with; null without IDs.")


class Recommended(Named):
    """A result."""

    score: float | None
    rank: int = Field(ge=1)
    codes: list[int] | None = Field(default=None, description="With explain.")
    why: Why | None = Field(default=None, description="With explain; null for what is popular.")


class UserResults(_Message):
    """The results of one user, best first."""

    user: str | int | None
    popular: bool = Field(description="Nothing of the history is known: what is popular.")
    unknown: list[str | int] = Field(
        description="Keys of the given history that are not known; or the user, where the data set "
        "has no such and no history is given."
    )
    items: list[Recommended]


class RecommendAnswer(_Message):
    """One entry a user, in the order of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "generation",
                    "unknown": [],
                    "results": [
                        {
                            "user": None,
                            "popular": False,
                            "unknown": [],
                            "items": [
                                {"item": "G0649", "title": "Red cup", "score": -1.5, "rank": 1}
                            ],
                        }
                    ],
                }
            ]
        }
    )

    model: str
    unknown: list[str | int] = Field(
        description="Keys of allow and exclude that no item has, left out."
    )
    results: list[UserResults]


class AddedItem(_Message):
    """An item to add; it must have a text as those of the data set, or a vector."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["text"]}, {"required": ["vector"]}]}
    )

    item: ItemKey
    title: StrictStr | None = Field(
        default=None, max_length=MAX_TEXT, description="To show; else text, or the key."
    )
    text: StrictStr | None = Field(
        default=None,
        max_length=MAX_TEXT,
        description="What the run's text encoder shall embed.",
    )
    vector: Annotated[list[_Coordinate], Field(min_length=1, max_length=MAX_VECTOR)] | None = Field(
        default=None,
        description="From the run's text encoder, instead of embedding the text here.",
    )

    @model_validator(mode="after")
    def _check_content(self) -> AddedItem:
        if self.text is None and self.vector is None:
            raise ValueError(
                f"item must have text or vector, got neither for {self.item!r}; give its text"
            )
        if self.vector is not None and (length := math.hypot(*self.vector)) > LONGEST_VECTOR:
            raise ValueError(
                f"vector must have a length of at most {LONGEST_VECTOR:g}, got {length:.3g}; give "
                "that of the run's text encoder"
            )
        return self


class AddRequest(_Message):
    """Items to add."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"items": [{"item": "new-1", "title": "Red cup", "text": "Cup; red; kitchen"}]}
            ]
        }
    )

    items: Annotated[list[AddedItem], Field(min_length=1, max_length=MAX_NEW_ITEMS)]


class AddAnswer(_Message):
    """What was added; it is on the disk."""

    added: list[str]
    returned: list[str] = Field(
        description="Items that had been removed: back with the title and ID that they had."
    )
    unused: dict[str, list[Literal["title", "text", "vector"]]] = Field(
        description="Of those that came back, by key, what was given and is not what they had, or "
        "cannot be compared with it: they do not change. A text is kept for a newer run. Give a "
        "changed item a key of its own."
    )
    num_items: int


class RemoveAnswer(_Message):
    """What was removed; that is on the disk."""

    removed: str
    num_items: int


class ItemAnswer(Named):
    """An item of the catalogue."""

    codes: list[int] | None = Field(description="Semantic ID; null where there is none.")
    count: int | None = Field(description="How often it was taken in the data set.")


class SimilarItem(Named):
    """A neighbour."""

    score: float
    rank: int = Field(ge=1)


class SimilarAnswer(_Message):
    """The items nearest to one, best first."""

    items: list[SimilarItem]


class FoundAnswer(_Message):
    """Items whose title holds all words."""

    items: list[Named]


class UserAnswer(_Message):
    """A user of the data set: what he had, and what he took next."""

    user: str
    history: list[Named]
    next: Named


class ModelRequest(_Message):
    """The run to serve from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "decoder/2026-12-01"}, {}]})

    path: Annotated[StrictStr, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="Folder below the one of --models; left out, the service's run is read again.",
    )


class InfoAnswer(_Message):
    """What is served."""

    model: str
    kind: str = Field(description="Class of the model.")
    version: str = Field(description="Digest of the run's weights and items.")
    changes: int = Field(description="Changes since the service began.")
    dataset: str | None
    num_items: int
    num_users: int = Field(description="Users who may be named; 0 without a data set.")
    levels: list[int] | None = Field(description="Codes of each level of a semantic ID.")
    max_history: int
    max_k: int
    random_user: bool = Field(description="Whether `/v1/users/random` answers.")
    device: str


class StateAnswer(_Message):
    """Whether the service is well."""

    status: str


class ErrorLine(_Message):
    """An error."""

    message: str = Field(description="One line: what, got, allowed, fix.")


class ErrorAnswer(_Message):
    """A request that was not answered."""

    error: ErrorLine
