"""How well items are recommended that no training has seen: held out of both stages, then added.

A share of the items leaves the catalogue and all histories; both stages are trained on what is
left, and the items come back through ``Recommender.add_items``. Asked is for the test
interactions with them, over all items and over the new ones alone, beside popularity and the
nearest neighbours by text vector. The full history counts, in which new items may stand too.

Shape legend: N = items, M = interactions, B = test interactions with a new item, R = results.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from _bench import versions

from genrec.data.prepared import PreparedDataset, is_prepared, write_prepared
from genrec.data.sequence_dataset import SeqData
from genrec.entry import settle_process
from genrec.errors import run_command
from genrec.evaluation.metrics import hit_ranks, recall_at_k
from genrec.serving.recommender import Recommender
from genrec.stages import Options, plan, run_plan

KS = (5, 10, 20)

Rows = npt.NDArray[np.int64]
#: From places in the test split to ranked rows of the full catalogue, (B, R), -1 for none.
RankFn = Callable[[list[Rows], Rows | None], torch.Tensor]


def draw(num_items: int, share: float, seed: int) -> Rows:
    """Draw the items that will be new, ascending."""
    count = max(1, round(share * num_items))
    return np.sort(np.random.default_rng(seed).choice(num_items, count, replace=False))


def without_items(data: PreparedDataset, gone: Rows, path: Path) -> PreparedDataset:
    """Write a data set as it was before some items came; users keep their split."""
    stays = np.ones(data.num_items, dtype=bool)
    stays[gone] = False
    renumber = np.cumsum(stays) - 1
    items = np.asarray(data.sequence_items)
    kept = stays[items]
    before = np.concatenate([[0], np.cumsum(kept)])  # (M + 1,): kept interactions before each
    rows = np.flatnonzero(stays).tolist()
    return write_prepared(
        path,
        name=data.meta["name"],
        source=f"{data.meta['source']}, without {len(gone)} items",
        split_rule=data.meta["split_rule"],
        encoder=data.meta["encoder"],
        card={},
        item_keys=[data.item_keys[row] for row in rows],
        item_titles=[data.item_titles[row] for row in rows],
        item_texts=[data.item_texts[row] for row in rows],
        item_embeddings=np.asarray(data.item_embeddings)[stays],
        user_keys=data.user_keys,
        sequence_items=renumber[items[kept]],
        sequence_offsets=before[data.sequence_offsets],
        train_ends=before[data.train_ends],
        valid_ends=before[data.valid_ends],
    )


def by_recommender(recommender: Recommender, data: PreparedDataset) -> RankFn:
    """Rank with a recommender, whose rows may be in another order."""
    row_of = {key: row for row, key in enumerate(data.item_keys)}
    rows = np.array([row_of[key] for key in recommender.item_keys])

    def rank(histories: list[Rows], allowed: Rows | None) -> torch.Tensor:
        allow = None if allowed is None else [data.item_keys[row] for row in allowed]
        keys = [[data.item_keys[row] for row in history] for history in histories]
        found = recommender.recommend(keys, k=max(KS), allow=allow, exclude_seen=False)
        results = np.full((len(keys), max(KS)), -1)
        inside = np.arange(max(KS)) < np.diff(found.offsets)[:, None]
        results[inside] = rows[found.flat_rows]
        return torch.from_numpy(results)

    return rank


def by_popularity(data: PreparedDataset, gone: Rows) -> RankFn:
    """Rank by the interactions of the training part, of which new items have none."""
    ends = np.repeat(data.train_ends, np.diff(data.sequence_offsets))
    trained = np.asarray(data.sequence_items)[np.arange(data.num_interactions) < ends]
    counts = np.bincount(trained, minlength=data.num_items)
    counts[gone] = 0

    def rank(histories: list[Rows], allowed: Rows | None) -> torch.Tensor:
        rows = np.arange(data.num_items) if allowed is None else allowed
        best = rows[np.argsort(-counts[rows], kind="stable")[: max(KS)]]
        return torch.from_numpy(np.tile(best, (len(histories), 1)))

    return rank


def by_text(data: PreparedDataset, newest: int) -> RankFn:
    """Rank by the cosine with the mean text vector of the newest items."""
    vectors = torch.from_numpy(np.array(data.item_embeddings, dtype=np.float32))
    vectors = torch.nn.functional.normalize(vectors, dim=1)

    def rank(histories: list[Rows], allowed: Rows | None) -> torch.Tensor:
        means = torch.stack([vectors[history[-newest:]].mean(dim=0) for history in histories])
        near = means @ vectors.T
        near[torch.arange(len(histories)), [int(history[-1]) for history in histories]] = -2
        rows = torch.arange(data.num_items) if allowed is None else torch.from_numpy(allowed)
        return rows[near[:, rows].topk(min(max(KS), len(rows)), dim=1).indices]

    return rank


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Hold out, train, add, rank; recall by method, then by who may be recommended and length."""
    data = PreparedDataset.load(args.data)
    gone = draw(data.num_items, args.share, args.seed)
    warm = args.out / f"warm-{args.share:g}-{args.seed}"
    if not is_prepared(warm):
        without_items(data, gone, warm)
    folders = [f"{name}.save_dir_root='{args.out}/{name}'" for name in ("rqvae", "decoder")]
    steps = plan(
        [args.recipe],
        Options(data=str(warm), bindings=[*folders, *(args.gin or ())], resume=True),
    )
    run_plan(steps)
    recommender = Recommender.from_pretrained(steps[-1].run)
    recommender.add_items(
        {
            "item_id": [data.item_keys[row] for row in gone],
            "title": [data.item_titles[row] for row in gone],
            "vector": np.asarray(data.item_embeddings)[gone],
        }
    )
    test = SeqData(data, "test", max_history=recommender.ranker.max_history)
    asked = np.flatnonzero(np.isin(test.targets, gone))
    batch = test.gather(asked)
    histories = [row[row >= 0].numpy() for row in batch.history]
    methods: dict[str, RankFn] = {
        "added, generated": by_recommender(recommender, data),
        "nearest text of the last item": by_text(data, 1),
        "nearest text of the history": by_text(data, test.max_history),
        "popularity": by_popularity(data, gone),
    }
    if args.trained is not None:
        seen = Recommender.from_pretrained(args.trained)
        methods["trained on them, generated"] = by_recommender(seen, data)
    targets = torch.from_numpy(test.targets[asked])
    found: dict[str, Any] = {}
    for name, rank in methods.items():
        found[name] = {}
        for where, allowed in (("all", None), ("new", gone)):
            ranks = hit_ranks(rank(histories, allowed), targets)
            found[name][where] = {f"recall@{k}": recall_at_k(ranks, k) for k in KS}
    return {"interactions": len(asked), "new_items": len(gone), "items": data.num_items} | {
        "results": found,
        "settings": {"share": args.share, "seed": args.seed, "recipe": args.recipe},
        **versions(),
    }


def table(found: dict[str, Any]) -> str:
    """Lay the results out for people."""
    head = "".join(f"{f'R@{k} {where}':>11}" for where in ("all", "new") for k in KS)
    lines = [
        f"{found['interactions']:,} test interactions with {found['new_items']:,} new items of "
        f"{found['items']:,}; recall over all items, and over the new ones alone",
        f"{'':<30}{head}",
    ]
    for name, row in found["results"].items():
        cells = "".join(f"{row[where][f'recall@{k}']:>11.4f}" for where in row for k in KS)
        lines.append(f"{name:<30}{cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="prepared data set")
    parser.add_argument("--out", type=Path, default=Path("out/cold_start"))
    parser.add_argument("--recipe", default="amazon")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trained", type=Path, help="run that knew the items, to compare with")
    parser.add_argument("--gin", action="append", help="override, as of `genrec train`")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settle_process()
    found = measure(args)
    print(json.dumps(found) if args.json else table(found))


if __name__ == "__main__":
    run_command(main)
