"""``genrec tokenize``: semantic IDs of a catalogue from a trained stage-one run."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from genrec.commands import add_command
from genrec.errors import ConfigError, MissingPathError

__all__ = ["TokenizeArguments", "app_command", "format_statistics", "tokenize_run"]


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
) -> Any:
    """Make the semantic IDs of a data set and keep them.

    Args:
        run: Folder of a stage-one run.
        data_path: A prepared data set; the one that the run was trained on when None.
        out: Folder to write; the run's own table when None.
        policy: Collision policy; that of the run's table, or ``dedup_token``, when None.
        checkpoint: See :func:`~genrec.trained.load_quantizer`.
        extend: Keep the IDs of the run's table and add those of the items that it lacks.
        replace_non_finite: Put 0 for NaN and Inf in embeddings, which reads them into memory.
        batch_size: Items encoded at once.
        device: Where to compute; a GPU where there is one when None.

    Returns:
        The :class:`~genrec.tokenizer.semantic_id.SemanticIdTokenizer`, rows as in the data set.

    Raises:
        GenRecError: If a path, the policy or the data does not fit.
    """
    import numpy as np
    import torch

    from genrec.data.prepared import PreparedDataset
    from genrec.tokenizer.policies import POLICIES, check_policy
    from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
    from genrec.trained import load_quantizer

    if policy is not None:
        check_policy(policy)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    quantizer = load_quantizer(run, device=device, checkpoint=checkpoint)
    old = None
    if (run / ARTIFACT_NAME / "meta.json").is_file():
        old = SemanticIdTokenizer.load(run)
    kept = old.policy if old is not None and old.policy in POLICIES else None
    if extend and old is None:
        raise MissingPathError(
            f"--extend needs the table of an earlier call, got {run} without {ARTIFACT_NAME}/; "
            "run `genrec tokenize RUN_DIR` on the old data set first"
        )
    if extend and old is not None and policy not in (None, old.policy):
        raise ConfigError(
            f"--policy must be the table's {old.policy} with --extend, got {policy}; leave it out"
        )
    data = PreparedDataset.load(_data_path(run) if data_path is None else data_path)
    embeddings: Any = data.item_embeddings
    if replace_non_finite:
        embeddings = np.nan_to_num(np.asarray(embeddings), nan=0.0, posinf=0.0, neginf=0.0)
    where: dict[str, Any] = {"batch_size": batch_size}
    if extend and old is not None:
        known = set(old.item_keys)
        new = np.array([i for i, key in enumerate(data.item_keys) if key not in known], dtype=int)
        table = old
        if len(new):
            keys = [data.item_keys[i] for i in new]
            table = old.add_items(quantizer, embeddings[new], keys, **where)
        table = table.select(data.item_keys)
    else:
        table = SemanticIdTokenizer.build(
            quantizer,
            embeddings,
            item_keys=data.item_keys,
            policy=policy or kept or "dedup_token",
            **where,
        )
    table.save(run / ARTIFACT_NAME if out is None else out)
    return table


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
    from genrec.atomic import read_json

    meta = run / "meta.json"
    prepared = read_json(meta).get("prepared") if meta.is_file() else None
    if prepared is None:
        raise ConfigError(
            f"--data must be given where the run does not say its data set, got {run}; "
            "name a prepared data set"
        )
    return Path(prepared)


@dataclass(frozen=True, kw_only=True)
class TokenizeArguments:
    """What ``genrec tokenize`` is told."""

    run_dir: Annotated[Path, typer.Argument(help="A run of scripts/train_rqvae.py.")]
    data: Annotated[Path | None, typer.Option(help="A prepared data set. [that of the run]")] = None
    out: Annotated[Path | None, typer.Option(help="Folder to write. [RUN_DIR/semantic_ids]")] = None
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
        bool, typer.Option(help="Keep the IDs of the run's table; add those of new items.")
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: TokenizeArguments) -> None:
        from genrec.tokenizer.semantic_id import ARTIFACT_NAME

        start = time.perf_counter()
        table = tokenize_run(
            told.run_dir,
            data_path=told.data,
            out=told.out,
            policy=told.policy,
            checkpoint=told.checkpoint,
            extend=told.extend,
            replace_non_finite=told.replace_non_finite,
            batch_size=told.batch_size,
            device=told.device,
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
            written = told.run_dir / ARTIFACT_NAME if told.out is None else told.out
            print(
                f"wrote {written}: {table.num_levels} levels of {table.level_sizes} codes, "
                f"in {seconds:.1f} s"
            )

    about = "Write the semantic IDs of a catalogue; prints how good they are."
    add_command(app, "tokenize", TokenizeArguments, work, about=about)
