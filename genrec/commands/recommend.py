"""``genrec recommend``: what a run recommends, with titles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.errors import ArtifactError, DataError, did_you_mean, printable, run_command

if TYPE_CHECKING:
    from genrec.data.prepared import PreparedDataset
    from genrec.serving.recommender import Recommender

__all__ = ["app_command", "format_answer", "pick_users", "recommend_after", "recommend_for"]


def pick_users(data: PreparedDataset, names: Sequence[str], count: int) -> list[int]:
    """Choose users of a data set.

    Args:
        data: The data set.
        names: Keys of users; none for some that are spread over all.
        count: How many, where there are no names.

    Returns:
        Rows of the data set.

    Raises:
        DataError: If a user is unknown, or nobody has a held-out item.
    """
    import numpy as np

    if names:
        row_of = {key: row for row, key in enumerate(data.user_keys)}
        for name in names:
            if name not in row_of:
                raise DataError(
                    f"--user must be a user of the data set, got {name!r}; "
                    f"{did_you_mean(name, data.user_keys[:1000])}"
                )
        return [row_of[name] for name in names]
    ends = np.asarray(data.sequence_offsets[1:])
    tested = np.flatnonzero(np.asarray(data.valid_ends) < ends)
    if len(tested) == 0:
        raise DataError(
            "the data set must have users with a held-out item, got none; name item keys with "
            "--history"
        )
    # Long histories tell a reader more than the shortest ones, which lead in number.
    lengths = np.diff(data.sequence_offsets)[tested]
    tested = tested[lengths >= min(5, int(lengths.max()))]
    places = np.linspace(0, len(tested) - 1, min(count, len(tested)) + 2)[1:-1]
    return [int(user) for user in tested[places.astype(np.int64)]]


def recommend_for(
    recommender: Recommender, data: PreparedDataset, users: Sequence[int], **options: Any
) -> list[dict[str, Any]]:
    """Recommend to users of a data set as a test does: from all but their last item.

    Args:
        recommender: Of a run on that data set.
        data: The data set.
        users: Rows of the data set.
        **options: Of :meth:`~genrec.serving.recommender.Recommender.recommend`.

    Returns:
        See :func:`recommend_after`; ``next`` is what the user really took next.
    """
    histories, taken = [], []
    for user in users:
        begin, end = int(data.sequence_offsets[user]), int(data.sequence_offsets[user + 1])
        cut = int(data.valid_ends[user])
        histories.append([data.item_keys[row] for row in data.sequence_items[begin:cut]])
        taken.append(data.sequence_items[cut : min(end, cut + 1)])
    names = [data.user_keys[user] for user in users]
    answers = recommend_after(recommender, histories, users=names, **options)
    for answer, rows in zip(answers, taken, strict=True):
        answer["next"] = next(iter(_items(recommender, rows)), None)
    return answers


def recommend_after(
    recommender: Recommender,
    histories: Sequence[Sequence[str]],
    *,
    users: Sequence[str] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Recommend what may follow some histories.

    Args:
        recommender: Of any run.
        histories: Item keys, oldest first.
        users: The users' own ids, or None.
        **options: Of :meth:`~genrec.serving.recommender.Recommender.recommend`.

    Returns:
        For each history a JSON object: ``user``, ``history``, ``recommended`` and ``next``, which
        is None; items as ``key``, ``title`` and, where recommended, ``score``.
    """
    ids, scores = recommender.recommend(histories, users=users, **options)
    answers = []
    for place, history in enumerate(histories):
        recommended = _items(recommender, ids[place])
        for item, score in zip(recommended, scores[place], strict=False):  # padded at the end
            item["score"] = round(float(score), 4)
        answers.append(
            {
                "user": users[place] if users is not None else None,
                "history": _items(recommender, recommender.rows(history)),
                "recommended": recommended,
                "next": None,
            }
        )
    return answers


def _check_items(recommender: Recommender, data: PreparedDataset) -> None:
    """Refuse users of a data set with other items; the recommender may know more behind them."""
    if recommender.item_keys[: data.num_items] != list(data.item_keys):
        raise ArtifactError(
            f"data set must have the items that the run was trained on, got {data.num_items} "
            f"others in {data.path}; name item keys with --history"
        )


def _items(recommender: Recommender, rows: Any) -> list[dict[str, Any]]:
    names = zip(recommender.keys(rows), recommender.titles(rows), strict=True)
    return [{"key": key, "title": title} for key, title in names]


def format_answer(answer: dict[str, Any], *, shown: int = 5) -> str:
    """Lay a user's recommendations out for people.

    Args:
        answer: From :func:`recommend_for`.
        shown: Newest items of the history to show.

    Returns:
        Some lines of text; ``*`` marks what the user really took next.
    """
    history = answer["history"]
    who = f"user {answer['user']}" if answer["user"] is not None else "history"
    hidden = f", the last {shown} of {len(history)}" if len(history) > shown else ""
    lines = [f"{who} had{hidden}:"]
    lines += [f"   {item['title']}  [{item['key']}]" for item in history[-shown:]]
    lines.append("recommended:")
    taken = answer["next"]
    for place, item in enumerate(answer["recommended"], start=1):
        mark = "*" if taken is not None and item["key"] == taken["key"] else " "
        lines.append(f"{mark}{place:>2} {item['title']}  [{item['key']}]")
    if taken is not None:
        lines.append(f"took next (held out): {taken['title']}  [{taken['key']}]")
    return "\n".join(map(printable, lines))


def app_command(app: typer.Typer) -> None:
    """Add the command to an application.

    Args:
        app: The application.
    """

    @app.command(
        "recommend", help="Recommend items to users of the data set, or to a history you give."
    )
    def command(
        run_dir: Annotated[Path, typer.Argument(help="A run of any training but stage one.")],
        user: Annotated[
            list[str] | None,
            typer.Option(help="A user of the data set, or whose history it is; may be repeated."),
        ] = None,
        history: Annotated[
            list[str] | None,
            typer.Option(help="Item keys, oldest first, with commas; may be repeated."),
        ] = None,
        users: Annotated[int, typer.Option(min=1, help="Users to show where none is named.")] = 3,
        k: Annotated[int, typer.Option("-k", min=1, help="Items for each user.")] = 5,
        beams: Annotated[int | None, typer.Option(min=1, help="Beams. [those of the run]")] = None,
        ids: Annotated[
            Path | None,
            typer.Option(help="ID table with new items, from `genrec tokenize --extend`."),
        ] = None,
        exclude_seen: Annotated[
            bool, typer.Option(help="Leave out what the history holds.")
        ] = True,
        device: Annotated[str | None, typer.Option(help="e.g. cpu or cuda. [a GPU if any]")] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print one JSON object a line.")
        ] = False,
        debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    ) -> None:
        def work() -> None:
            from genrec.atomic import read_json
            from genrec.data.prepared import PreparedDataset
            from genrec.serving.recommender import Recommender
            from genrec.tokenizer.semantic_id import SemanticIdTokenizer

            table = SemanticIdTokenizer.load(ids) if ids is not None else None
            recommender = Recommender.from_pretrained(run_dir, tokenizer=table, device=device)
            options = {"k": k, "num_beams": beams, "exclude_seen": exclude_seen}
            if history:
                lists = [[key.strip() for key in line.split(",")] for line in history]
                answers = recommend_after(recommender, lists, users=user or None, **options)
            else:
                data = PreparedDataset.load(read_json(run_dir / "meta.json")["prepared"])
                _check_items(recommender, data)
                chosen = pick_users(data, user or (), users)
                answers = recommend_for(recommender, data, chosen, **options)
            if as_json:
                lines = (json.dumps(answer, ensure_ascii=False) for answer in answers)
                print("\n".join(map(printable, lines)))
            else:
                print("\n\n".join(format_answer(answer) for answer in answers))

        run_command(work, debug=debug)
