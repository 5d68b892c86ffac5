"""``genrec tokenize``: semantic IDs of a catalogue from a trained stage-one run."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from genrec.commands import add_command
from genrec.errors import ConfigError, MissingPathError

__all__ = ["EXTENDED_NAME", "TokenizeArguments", "app_command", "format_statistics", "tokenize_run"]

EXTENDED_NAME = "semantic_ids-extended"  # folder inside a run: its table with new items


def tokenize_run(
    run: Path,
    *,
    data_path: Path | None = None,
    out: Path | None = None,
    policy: str | None = None,
    checkpoint: str | None = None,
    extend: bool = False,
    replace_non_finite: bool = False,
    batch_size: int = 4096,
    device: str | None = None,
    ray: int | None = None,
) -> Any:
    """Make the semantic IDs of a data set and keep them.

    Args:
        run: Folder of a stage-one run.
        data_path: A prepared data set; the one that the run was trained on when None.
        out: Folder to write; the run's own table when None, with ``extend`` the table
            :data:`EXTENDED_NAME` beside it.
        policy: Collision policy; that of the run's table, or ``dedup_token``, when None.
        checkpoint: See :func:`~genrec.trained.load_quantizer`.
        extend: Keep the IDs of the table in ``out``, where there is none those of the run's
            table, and add the items that it lacks behind them. The run's own table stays.
        replace_non_finite: Put 0 for NaN and Inf in embeddings, which reads them into memory.
        batch_size: Items encoded at once.
        device: Where to compute; a GPU where there is one when None.
        ray: Encode on so many workers of Ray; None encodes here. Not with ``extend``.

    Returns:
        The :class:`~genrec.tokenizer.semantic_id.SemanticIdTokenizer`: rows as in the data set,
        with ``extend`` those of the old table and then the new ones in the data set's order.

    Raises:
        GenRecError: If a path, the policy or the data does not fit: above all if the data set
            embeds the run's items otherwise, and with ``extend`` if it holds no new item.
    """
    import numpy as np

    from genrec.data.prepared import PreparedDataset
    from genrec.data.text.known_vectors import KnownVectors
    from genrec.device import pick_device
    from genrec.runs import find_run
    from genrec.tokenizer.policies import POLICIES, check_policy
    from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
    from genrec.trained import load_quantizer, quantizer_inputs

    if policy is not None:
        check_policy(policy)
    if ray is not None and extend:
        raise ConfigError(
            f"--ray must be left out with --extend, which encodes new items alone, got {ray}; "
            "leave it out"
        )
    run = find_run(run)
    quantizer = load_quantizer(run, device=pick_device(device), checkpoint=checkpoint)
    if out is None:
        out = run / (EXTENDED_NAME if extend else ARTIFACT_NAME)
    if extend:
        table = _extended(
            run, quantizer, data_path, out, policy, replace_non_finite, batch_size=batch_size
        )
        table.save(out)
        return table
    kept = None
    if (run / ARTIFACT_NAME / "meta.json").is_file():
        old = SemanticIdTokenizer.load(run)
        kept = old.policy if old.policy in POLICIES else None
    data = PreparedDataset.load(_data_path(run) if data_path is None else data_path)
    if data_path is not None:
        KnownVectors.load(run).check(data)
    embeddings: Any = quantizer_inputs(run, data)
    if replace_non_finite:
        embeddings = np.nan_to_num(np.asarray(embeddings), nan=0.0, posinf=0.0, neginf=0.0)
    codes = None
    if ray is not None:
        from genrec.serving.ray import codes_on

        codes = codes_on(
            ray,
            run,
            data,
            checkpoint=checkpoint,
            device=device,
            batch_size=batch_size,
            replace_non_finite=replace_non_finite,
        )
    table = SemanticIdTokenizer.build(
        quantizer,
        embeddings,
        item_keys=data.item_keys,
        policy=policy or kept or "dedup_token",
        codes=codes,
        batch_size=batch_size,
    )
    table.save(out)
    return table


def _extended(
    run: Path,
    quantizer: Any,
    data_path: Path | None,
    out: Path,
    policy: str | None,
    replace_non_finite: bool,
    *,
    batch_size: int,
) -> Any:
    """Add the new items of a data set to the table in ``out``, or else to that of the run."""
    import numpy as np

    from genrec.data.prepared import PreparedDataset
    from genrec.data.text.known_vectors import KnownVectors
    from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
    from genrec.trained import quantizer_inputs

    if not (run / ARTIFACT_NAME / "meta.json").is_file():
        raise MissingPathError(
            f"--extend needs the table of an earlier call, got {run} without {ARTIFACT_NAME}/; "
            "run `genrec tokenize RUN_DIR` on the old data set first"
        )
    if data_path is None:
        raise ConfigError(
            "--extend needs --data, a prepared data set with the run's items and new ones, got "
            "none; make it with `genrec prepare SOURCE --out DIR --keep-unseen-items --like "
            f"{run}`"
        )
    if out.resolve() == (run / ARTIFACT_NAME).resolve():
        raise ConfigError(
            f"--out must not be the run's own table with --extend, got {out}; leave it out for "
            f"{run / EXTENDED_NAME}"
        )
    old = SemanticIdTokenizer.load(out if (out / "meta.json").is_file() else run)
    if policy not in (None, old.policy):
        raise ConfigError(
            f"--policy must be the table's {old.policy} with --extend, got {policy}; leave it out"
        )
    data = PreparedDataset.load(data_path)
    num_edited = KnownVectors.load(run).check(data)
    known = set(old.item_keys)
    new = np.array([i for i, key in enumerate(data.item_keys) if key not in known], dtype=int)
    if len(new) == data.num_items:
        raise ConfigError(
            f"--data must hold the run's items beside new ones, got none of its {len(known):,} in "
            f"{data_path}; prepare both together"
        )
    num_left_out = data.meta["card"].get("items_left_out_without_interactions", 0)
    left_out = (
        f"{num_left_out:,} items of its source were left out because nobody took them: prepare it "
        "with --keep-unseen-items to give them IDs"
    )
    if len(new) == 0:
        why = left_out if num_left_out else "add items to its source and prepare it again"
        raise ConfigError(
            f"--data must hold items that the table lacks, got {data.num_items:,} that all have "
            f"IDs; {why}"
        )
    if num_left_out:
        print(f"note: {left_out}", file=sys.stderr)
    if num_edited:
        print(
            f"note: {num_edited:,} items of the run have other texts or vectors now; they keep "
            "their IDs",
            file=sys.stderr,
        )
    num_gone = len(known) - (data.num_items - len(new))
    if num_gone:
        print(
            f"note: {num_gone:,} items of the table are not in {data_path}; they keep their IDs "
            "and are recommended until they are excluded (--exclude) or removed",
            file=sys.stderr,
        )
    silent = new[~np.any(data.item_embeddings[new], axis=1)]
    if len(silent):
        print(
            f"note: {len(silent):,} new items have no word that the encoder knows, for example "
            f"{data.item_keys[silent[0]]}; their codes mean nothing",
            file=sys.stderr,
        )
    embeddings: Any = quantizer_inputs(run, data)[new]
    if replace_non_finite:
        embeddings = np.nan_to_num(embeddings, nan=0.0, posinf=0.0, neginf=0.0)
    keys = [data.item_keys[i] for i in new]
    return old.add_items(quantizer, embeddings, keys, batch_size=batch_size)


def format_statistics(table: Any) -> str:
    """Say how good the IDs of a table are.

    Args:
        table: A :class:`~genrec.tokenizer.semantic_id.SemanticIdTokenizer`.

    Returns:
        A few lines of text.
    """
    count = table.statistics
    lines = ["level  codes used  perplexity"]
    levels = zip(count["level_sizes"], count["codes_used"], count["perplexity"], strict=True)
    for level, (size, used, perplexity) in enumerate(levels, start=1):
        lines.append(f"{level:>5}  {f'{used}/{size}':>10}  {perplexity:>10.1f}")
    lines.append(
        f"codes alone: {count['distinct_ids']:,} IDs for {count['num_items']:,} items, collision "
        f"rate {100 * count['collision_rate']:.2f} %, {count['items_sharing_id']:,} items share an "
        f"ID, largest group {count['largest_group']}"
    )
    lines.append(
        f"policy {table.policy}: {count['left_items_sharing_id']:,} items share an ID, largest "
        f"group {count['left_largest_group']}; {count['items_moved']:,} items moved, at "
        f"{count['added_distortion']:.4f} of R2 in the latent space"
    )
    if "items_added" in count:
        lines.append(f"{count['items_added']:,} items added to the catalogue since then")
    return "\n".join(lines)


def _data_path(run: Path) -> Path:
    """Read from a run which prepared data set it was trained on."""
    from genrec.digests import read_signed

    meta = run / "meta.json"
    prepared = read_signed(meta).get("prepared") if meta.is_file() else None
    if prepared is None:
        raise ConfigError(
            f"--data must be given where the run does not say its data set, got {run}; "
            "name a prepared data set"
        )
    return Path(prepared)


@dataclass(frozen=True, kw_only=True)
class TokenizeArguments:
    """What ``genrec tokenize`` is told."""

    run_dir: Annotated[Path, typer.Argument(help="A run of `genrec train rqvae`.")]
    data: Annotated[Path | None, typer.Option(help="A prepared data set. [that of the run]")] = None
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write. [RUN_DIR/semantic_ids; with --extend semantic_ids-extended]"
        ),
    ] = None
    policy: Annotated[
        str | None,
        typer.Option(
            help="Of colliding items: dedup_token, reassign, sinkhorn or none. [as before]"
        ),
    ] = None
    checkpoint: Annotated[
        str | None, typer.Option(help="e.g. step_1000 or best_collision. [latest]")
    ] = None
    extend: Annotated[
        bool,
        typer.Option(
            help="Keep the IDs of the run's table, or of --out where it is one; add those of "
            "the new items of --data, prepared with --like RUN_DIR."
        ),
    ] = False
    index_json: Annotated[
        Path | None, typer.Option(help="Write the IDs to this .index.json too.")
    ] = None
    npy: Annotated[Path | None, typer.Option(help="Write the codes to this .npy too.")] = None
    replace_non_finite: Annotated[
        bool, typer.Option(help="Put 0 for NaN and Inf in the embeddings.")
    ] = False
    batch_size: Annotated[int, typer.Option(help="Items encoded at once.")] = 4096
    device: Annotated[str | None, typer.Option(help="e.g. cpu or cuda. [a GPU if any]")] = None
    ray: Annotated[int | None, typer.Option(min=1, help="Encode on so many workers of Ray.")] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: TokenizeArguments) -> None:
        from genrec.runs import find_run
        from genrec.tokenizer.artifact import ID_TABLE
        from genrec.tokenizer.semantic_id import ARTIFACT_NAME

        run = find_run(told.run_dir)
        written = told.out or run / (EXTENDED_NAME if told.extend else ARTIFACT_NAME)
        ID_TABLE.check_replaceable(written, "--out")
        above = written.absolute().parent
        if (above / "meta.json").is_file() and above.resolve() != run.resolve():
            raise ConfigError(
                f"--out must not lie in another run, got {written}, whose model knows its own IDs "
                "alone; name a folder beside it"
            )
        for option, file, suffix in (
            ("--npy", told.npy, ".npy"),
            ("--index-json", told.index_json, ".json"),
        ):
            if file is not None and file.suffix != suffix:
                raise ConfigError(
                    f"{option} must end in {suffix}, got {file}; name for example "
                    f"{file.with_suffix(suffix)}"
                )
        start = time.perf_counter()
        table = tokenize_run(
            run,
            data_path=told.data,
            out=written,
            policy=told.policy,
            checkpoint=told.checkpoint,
            extend=told.extend,
            replace_non_finite=told.replace_non_finite,
            batch_size=told.batch_size,
            device=told.device,
            ray=told.ray,
        )
        if told.index_json is not None:
            table.export_index_json(told.index_json)
        if told.npy is not None:
            table.export_npy(told.npy)
        seconds = time.perf_counter() - start
        if told.as_json:
            found = {"policy": table.policy, "fingerprint": table.fingerprint}
            print(json.dumps(found | table.statistics | {"seconds": round(seconds, 3)}))
        else:
            print(format_statistics(table))
            print(
                f"wrote {written}: {table.num_levels} levels of {table.level_sizes} codes, "
                f"in {seconds:.1f} s"
            )

    about = "Write the semantic IDs of a catalogue; prints how good they are."
    options = {"collision policy": "--policy"}
    add_command(app, "tokenize", TokenizeArguments, work, about=about, options=options)
