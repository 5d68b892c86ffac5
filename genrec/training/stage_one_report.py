"""The end of a stage-one run: the semantic IDs, and the last step beside the best ones.

Shape legend: N = items, X = features.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genrec.data.prepared import PreparedDataset
from genrec.tokenizer.quantizer import ItemQuantizer
from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
from genrec.training.loop import FitResult
from genrec.training.session import Session, write_meta

__all__ = ["compare_steps", "finish_stage_one", "write_semantic_ids"]


def write_semantic_ids(
    session: Session,
    quantizer: ItemQuantizer,
    data: PreparedDataset,
    *,
    policy: str,
    embeddings: Any = None,
) -> dict[str, Any]:
    """Give every item its ID and keep the table in the run folder, on the main process.

    Args:
        session: The run.
        quantizer: Trained, in evaluation mode.
        data: The catalogue.
        policy: What to do with items of equal codes.
        embeddings: Shape ``(N, X)``; the data set's own when None.

    Returns:
        The table's statistics; empty on other processes.
    """
    if not session.accelerator.is_main_process:
        return {}
    table = SemanticIdTokenizer.build(
        quantizer,
        data.item_embeddings if embeddings is None else embeddings,
        item_keys=data.item_keys,
        policy=policy,
    )
    table.save(session.run_dir.path / ARTIFACT_NAME)
    session.say(
        f"semantic IDs: {table.num_items:,} items, {table.num_levels} levels {table.level_sizes}, "
        f"policy {policy}; {table.statistics['left_items_sharing_id']:,} items share an ID"
    )
    return table.statistics


def compare_steps(result: FitResult) -> str:
    """Set the last evaluation beside the best ones, in a small table.

    Args:
        result: Of the run.

    Returns:
        Lines of text; empty where nothing was evaluated.
    """
    by_step = dict(result.history)
    chosen = {"last": result.history[-1][0]} if result.history and result.history[-1][1] else {}
    chosen |= {name: step for name, (step, _) in result.best.items() if step in by_step}
    columns = ("R2", "loss", "collisions", "largest group")
    lines = [f"{'':<15} {'step':>8}" + "".join(f" {name:>13}" for name in columns)]
    for name, step in chosen.items():
        metrics = by_step[step]
        values = (
            f"{metrics.get('eval/r2', float('nan')):.4f}",
            f"{metrics.get('eval/reconstruction_loss', float('nan')):.4f}",
            f"{100 * metrics.get('eval/collision_rate', float('nan')):.2f} %",
            f"{metrics.get('eval/largest_group', float('nan')):.0f}",
        )
        lines.append(f"{name:<15} {step:>8,}" + "".join(f" {value:>13}" for value in values))
    return "\n".join(lines) if chosen else ""


def finish_stage_one(
    session: Session,
    quantizer: ItemQuantizer,
    items: Tensor,
    result: FitResult,
    data: PreparedDataset,
    *,
    policy: str,
) -> None:
    """Say what the run came to, write its semantic IDs and complete its meta data.

    The IDs are those of the last step: collisions are fewest early, when codes say least about
    the items, so that the step with the fewest is not the best tokenizer.

    Args:
        session: The run.
        quantizer: Trained, in evaluation mode; an RQ-VAE with the weights of the last step.
        items: What it was trained on, shape ``(N, X)``.
        result: From training.
        data: The catalogue.
        policy: What to do with items of equal codes.

    Raises:
        KeyboardInterrupt: If training was interrupted; the run can be resumed.
    """
    if result.interrupted:
        session.say(f"stopped at step {result.step:,}; go on with --resume")
        session.tracker.close()
        raise KeyboardInterrupt
    session.say(f"trained {result.step:,} steps in {result.seconds:,.0f} s of this session")
    if table := compare_steps(result):
        session.say(table)
    statistics = write_semantic_ids(
        session, quantizer, data, policy=policy, embeddings=items.numpy()
    )
    write_meta(
        session,
        {
            "steps": result.step,
            "train_seconds": round(result.seconds, 1),
            "best": {name: list(found) for name, found in result.best.items()},
            "evaluation": result.metrics,
            "semantic_ids": statistics,
        },
    )
    session.say(f"run: {session.run_dir.path}")
    session.tracker.close()
    session.accelerator.wait_for_everyone()
