"""``genrec recommend``: what a run recommends, with titles, or into a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.commands import add_command
from genrec.errors import ConfigError, DataError, did_you_mean, printable

if TYPE_CHECKING:
    from genrec.data.prepared import PreparedDataset
    from genrec.serving.recommender import Recommender

__all__ = [
    "RecommendArguments",
    "app_command",
    "format_answer",
    "pick_users",
    "recommend_after",
    "recommend_for",
]


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
    """Recommend to users of a data set what may follow their training and validation part.

    Args:
        recommender: Of a run on this data set.
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
        for row in rows:
            answer["next"] = {"key": data.item_keys[row], "title": data.item_titles[row]}
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
        For each history a JSON object: ``user``, ``history``, ``recommended``, ``popular``, which
        tells that nothing of the history was known, and ``next``, which is None; items as
        ``key``, ``title`` and, where recommended, ``score``.
    """
    found = recommender.recommend(histories, users=users, **options)
    answers: list[dict[str, Any]] = []
    for place, history in enumerate(histories):
        results = zip(found.items[place], found.titles[place], found.scores[place], strict=True)
        rows = recommender.rows(history, on_unknown="ignore")
        keys = [recommender.item_keys[row] for row in rows]
        had = zip(keys, recommender.titles(rows), strict=True)
        answers.append(
            {
                "user": users[place] if users is not None else None,
                "history": [{"key": key, "title": title} for key, title in had],
                "recommended": [
                    {"key": key, "title": title, "score": round(float(score), 4)}
                    for key, title, score in results
                ],
                "popular": bool(found.popular[place]),
                "next": None,
            }
        )
    return answers


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
    why = "popular, as nothing of the history is known" if answer["popular"] else "recommended"
    lines.append(f"{why}:")
    taken = answer["next"]
    for place, item in enumerate(answer["recommended"], start=1):
        mark = "*" if taken is not None and item["key"] == taken["key"] else " "
        lines.append(f"{mark}{place:>2} {item['title']}  [{item['key']}]")
    if taken is not None:
        lines.append(f"took next (held out): {taken['title']}  [{taken['key']}]")
    return "\n".join(map(printable, lines))


def _keys_of(line: str) -> list[str]:
    """Take a history apart."""
    keys = [key.strip() for key in line.split(",")]
    if not any(keys):
        raise DataError(
            f"--history must hold item keys with commas between them, got {line!r}; leave it out "
            "for users of the data set"
        )
    return [key for key in keys if key]


#: What messages of the library call otherwise than the options here.
_OPTIONS = {
    "k": "-k",
    "histories": "--history",
    "users": "--user",
    "num_beams": "--beams",
    "allow": "--allow",
    "exclude": "--exclude",
    "device": "--device",
    "on_unknown": "--on-unknown",
    "data=FOLDER": "--data FOLDER",
    "item keys as histories": "item keys with --history",
    "exclude_seen to False": "--no-exclude-seen",
}

#: Likewise where a file is written.
_FILE_OPTIONS = {
    "histories": "--input",
    "users": "--input",
    "item keys as histories": "item keys with --input",
}

_AS_OF_TEST = (
    "as of the test split: the last item of each user is held out, and shown as taken next; "
    "--out FILE reads whole histories, --history KEYS yours"
)


@dataclass(frozen=True, kw_only=True)
class RecommendArguments:
    """What ``genrec recommend`` is told."""

    run_dir: Annotated[Path, typer.Argument(help="A run of any training but stage one.")]
    user: Annotated[
        list[str] | None,
        typer.Option(
            help="A user of the data set, as of its test split: the last item is held out and "
            "shown beside the results; or whose --history it is. May be repeated."
        ),
    ] = None
    history: Annotated[
        list[str] | None,
        typer.Option(help="Item keys, oldest first, with commas; may be repeated."),
    ] = None
    users: Annotated[
        int,
        typer.Option(
            min=1, help="Users to show where none is named, their last item held out likewise."
        ),
    ] = 3
    k: Annotated[int, typer.Option("-k", min=1, help="Items for each user.")] = 5
    beams: Annotated[int | None, typer.Option(min=1, help="Beams. [those of the run]")] = None
    ids: Annotated[
        Path | None,
        typer.Option(help="ID table with new items, from `genrec tokenize --extend`."),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            help="Prepared data set, for its users and the titles of new items. [the run's]"
        ),
    ] = None
    input: Annotated[
        Path | None,
        typer.Option(
            help="Histories as .parquet, .csv or .jsonl: user_id and item_id, one row an "
            "interaction, oldest first; or user_id and history, one row a user."
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, .parquet, .csv or .jsonl: user_id, item_id, score, rank, "
            "popular. Goes on where an earlier call was stopped."
        ),
    ] = None
    allow: Annotated[
        Path | None,
        typer.Option(
            help="The only items: one key a line, or a table with item_id and, for each user "
            "his own, user_id."
        ),
    ] = None
    exclude: Annotated[Path | None, typer.Option(help="Items to leave out; as --allow.")] = None
    exclude_seen: Annotated[bool, typer.Option(help="Leave out what the history holds.")] = True
    on_unknown: Annotated[
        str,
        typer.Option(help="Items and users that are not known: raise, warn or ignore."),
    ] = "raise"
    device: Annotated[str | None, typer.Option(help="e.g. cpu or cuda. [a GPU if any]")] = None
    ray: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --out: work on so many workers of Ray, of the cluster of RAY_ADDRESS or "
            "else on this machine.",
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False


def _rules(told: RecommendArguments, users: Sequence[str] | None) -> dict[str, Any]:
    """Read what may be recommended and what not, for some users or for nobody by name."""
    import polars as pl

    from genrec.serving.tables import ItemLists

    rules: dict[str, Any] = {}
    for name, path in (("allow", told.allow), ("exclude", told.exclude)):
        if path is None:
            continue
        lists = ItemLists.read(path, f"--{name}")
        if lists.each is not None and users is None:
            raise ConfigError(
                f"--{name} must list items for everybody where no --user is named, got a column "
                f"of users in {path}; name the users, or leave the column out"
            )
        rules[name] = lists.of(pl.Series(users or [], dtype=pl.String))
    return rules


def _say_what_is_left_out(data: PreparedDataset) -> None:
    """Tell of repeats, which are not recommended unless asked for, where there are many."""
    from genrec.rankers import MANY_REPEATS, share_of_repeats

    share = share_of_repeats(data)
    if share > MANY_REPEATS:
        print(
            f"note: {100 * share:.0f} % of what users take they have taken before; "
            "what a history holds is left out, --no-exclude-seen brings it back",
            file=sys.stderr,
        )


def _named(told: RecommendArguments) -> dict[str, str]:
    """Choose how messages name what was typed."""
    return _OPTIONS if told.out is None else _OPTIONS | _FILE_OPTIONS


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: RecommendArguments) -> None:
        from genrec.runs import find_run, warn_if_stopped, warn_of_journal
        from genrec.serving.files import recommend_to_file
        from genrec.serving.recommender import Recommender
        from genrec.tokenizer.semantic_id import SemanticIdTokenizer

        if told.out is None and told.input is not None:
            raise ConfigError("--input must have --out, got none; name the file to write")
        if told.out is not None and (told.history or told.user):
            raise ConfigError(
                "--out must have --input or all users, got --history or --user; leave them out"
            )
        options: dict[str, Any] = {
            "k": told.k,
            "num_beams": told.beams,
            "exclude_seen": told.exclude_seen,
            "on_unknown": told.on_unknown,
        }
        files: dict[str, Any] = {
            "histories": told.input,
            "allow": told.allow,
            "exclude": told.exclude,
        }
        run = find_run(told.run_dir)
        warn_if_stopped(run)
        warn_of_journal(run)
        if told.ray is not None:
            from genrec.serving.ray import recommend_on

            if told.out is None:
                raise ConfigError(f"--ray must have --out, got {told.ray}; name the file to write")
            place: dict[str, Any] = {"ids": told.ids, "data": told.data, "device": told.device}
            count = recommend_on(told.ray, run, told.out, **place, **files, **options)
            print(f"wrote {told.out}: {count:,} users")
            return
        table = SemanticIdTokenizer.load(told.ids) if told.ids is not None else None
        if table is not None and told.data is None:
            print(
                "warning: texts of the items that --ids adds are not known without the data set "
                "that has them, so they begin with less; name it with --data",
                file=sys.stderr,
            )
        recommender = Recommender.from_pretrained(
            run, tokenizer=table, data=told.data, device=told.device
        )
        if told.exclude_seen and not told.input and not told.history:
            _say_what_is_left_out(recommender.data)
        if told.out is not None:
            count = recommend_to_file(recommender, told.out, **files, **options)
            print(f"wrote {told.out}: {count:,} users")
            return
        if told.history:
            lists = [_keys_of(line) for line in told.history]
            options |= _rules(told, told.user)
            answers = recommend_after(recommender, lists, users=told.user or None, **options)
        else:
            known = recommender.data
            chosen = pick_users(known, told.user or (), told.users)
            options |= _rules(told, [known.user_keys[user] for user in chosen])
            answers = recommend_for(recommender, known, chosen, **options)
        if told.as_json:
            lines = (json.dumps(answer, ensure_ascii=False) for answer in answers)
            print("\n".join(map(printable, lines)))
        else:
            parts = [] if told.history else [_AS_OF_TEST]
            print("\n\n".join(parts + [format_answer(answer) for answer in answers]))

    about = (
        "Recommend items to users of the data set, or to a history you give; with --out to "
        "all users of the data set or of a file, into a file."
    )
    add_command(app, "recommend", RecommendArguments, work, about=about, options=_named)
