"""Speed of the item-token model: search, training, and what a large catalogue costs.

Search stands beside Hugging Face generate with a callback for the legal codes, on a T5 of equal
width and the same IDs; training beside the code-token model of equal width as its recipe has it,
packed, with a dedup digit. The model is that of the defaults, which fits any catalogue, and beside
it that of configs/decoder/amazon_cpu.gin, which scores items. Weights are random, as are then the
prefixes that a search goes through; with --run both models have the run's IDs, and the recipe's is
the run's own, searched at temperature 1.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from _bench import build_ids, open_data, versions
from bench_decode import hugging_face

from genrec.allocator import keep_freed_memory
from genrec.data.batching import EvaluationBatches, TokenTable, TrainingBatches
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset, StringArray
from genrec.data.schemas import SequenceBatch
from genrec.data.sequence_dataset import SeqData
from genrec.decoding.trie import PrefixIndex
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import (
    HistorySettings,
    ItemHeadSettings,
    ItemVectorSettings,
    TreeSettings,
)
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.t5 import to_t5
from genrec.serving.keys import Lists
from genrec.serving.recommender import Recommender
from genrec.threads import side_by_side
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import load_trained

WIDTH, MAX_ITEMS = 64, 20
LEVELS, CODES = 4, 256  # of synthetic catalogues


def code_model(level_sizes: tuple[int, ...], encoder_mask: str) -> EncoderDecoderRetrievalModel:
    """The code-token model of configs/decoder/paper_cpu.gin."""
    return EncoderDecoderRetrievalModel(
        WIDTH,
        2 * WIDTH,
        0.1,
        4,
        4,
        num_embeddings=level_sizes,
        sem_id_dim=len(level_sizes),
        ff_dim=256,
        encoder_mask=encoder_mask,
    )


def recipe_model(index: PrefixIndex) -> ItemTokenRetrievalModel:
    """The item-token model of configs/decoder/amazon_cpu.gin."""
    return ItemTokenRetrievalModel.for_index(
        index,
        embedding_dim=WIDTH,
        dropout=(0.3, 0.1),
        items=ItemVectorSettings(item_codes=False),
        tree=TreeSettings(root_items=True, vectors_per_prefix=(16,), items_from=1),
        head=ItemHeadSettings(item_head_weight=2.0, item_head_dtype="auto"),
        history=HistorySettings(seen_weights=True),
    )


def wait_for(device: str) -> None:
    """Let a GPU finish, so that its work counts."""
    if device != "cpu":
        torch.cuda.synchronize()


def best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some repeats, which noise slowed least."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def search(
    model: ItemTokenRetrievalModel,
    recipe: ItemTokenRetrievalModel,
    index: PrefixIndex,
    data: PreparedDataset,
    ids: np.ndarray,
    args: argparse.Namespace,
) -> list[dict[str, float]]:
    """Users a second, and those of Hugging Face in the order of the file."""
    examples = SeqData(data, "test", max_history=MAX_ITEMS)
    times = 1 if args.device == "cpu" else 8
    batches = EvaluationBatches(  # on a CPU as large as those of Recommender.recommend
        examples,
        device=args.device,
        budget=2048 * times,
        max_rows=256 * times,
        limit=args.users,
    )
    tables = {each: each.item_table(index) for each in (model, recipe)}
    coder = code_model(index.level_sizes, "full").eval()
    t5 = to_t5(coder).to(args.device)
    layout = coder.layout
    few = np.linspace(0, len(examples) - 1, args.hf_users).astype(np.int64)
    history = examples.gather(few).history
    codes = torch.from_numpy(ids)[history.clamp(min=0)].long()
    tokens = layout.history_tokens(codes.where((history >= 0).unsqueeze(-1), -1), None)
    children: dict[tuple[int, ...], set[int]] = {}
    for row in layout.item_tokens(torch.from_numpy(ids).long()).tolist():
        for level, token in enumerate(row):
            children.setdefault(tuple(row[:level]), set()).add(token)
    legal = {prefix: sorted(found) for prefix, found in children.items()}
    results = []
    for beams in (int(count) for count in args.beams.split(",")):

        def answer(number: int, ours: ItemTokenRetrievalModel, beams: int = beams) -> int:
            _, batch = batches[number]
            found = ours.generate(
                batch.history,
                index,
                num_beams=beams,
                num_results=10,
                padded=batch.padded,
                table=tables[ours],
            )
            return len(found.items)

        def rate(
            ours: ItemTokenRetrievalModel,
            answer: Callable[[int, ItemTokenRetrievalModel], int] = answer,
        ) -> float:
            def everybody() -> int:
                found = sum(side_by_side(lambda n: answer(n, ours), len(batches), args.device))
                wait_for(args.device)
                return found

            return everybody() / best(everybody, 3)

        _, theirs = hugging_face(
            t5, tokens, np.arange(len(few)), legal, index.num_levels, beams, args.device
        )
        peer, found = len(few) / theirs, rate(model)
        of_recipe = rate(recipe)
        results.append(
            {
                "beams": beams,
                "users_per_s": round(found, 1),
                "recipe_users_per_s": round(of_recipe, 1),
                "hf_users_per_s": round(peer, 2),
                "ratio": round(found / peer, 1),
                "recipe_ratio": round(of_recipe / peer, 1),
            }
        )
    return results


def first_users(data: PreparedDataset, count: int) -> PreparedDataset:
    """The same data set with its first users only."""
    count = min(count, data.num_users)
    offsets = data.sequence_offsets[: count + 1]
    return replace(
        data,
        user_keys=StringArray(data.user_keys.data, data.user_keys.offsets[: count + 1]),
        sequence_items=data.sequence_items[: offsets[-1]],
        sequence_offsets=offsets,
        train_ends=data.train_ends[:count],
        valid_ends=data.valid_ends[:count],
    )


def batch_file(
    model: ItemTokenRetrievalModel, ids: np.ndarray, data: PreparedDataset, beams: int
) -> dict[str, float]:
    """Users of the data set into a Parquet file, beside the search of the same in memory."""
    from genrec.serving.files import recommend_to_file  # needs polars, which the rest does not

    sizes = model.level_sizes
    catalogue = replace(Catalogue.from_data(data), codes=ids.astype(np.int32), level_sizes=sizes)
    ranker = model.ranker(catalogue, {"num_beams": beams, "max_history": MAX_ITEMS})
    recommender = Recommender(ranker, data=data)
    offsets = np.asarray(data.sequence_offsets)
    lengths = np.minimum(np.diff(offsets), MAX_ITEMS)
    # The whole histories, as the file reads them, in batches of equal budget.
    rows = Lists(np.array(data.sequence_items, dtype=np.int64), offsets)
    order = np.argsort(lengths, kind="stable")
    batches = [
        torch.from_numpy(rows.padded(part, MAX_ITEMS))
        for part in np.array_split(order, max(1, int(lengths.sum()) // 2048))
    ]

    def in_memory() -> int:
        return sum(
            side_by_side(
                lambda number: len(ranker.rank(batches[number], 10).items),
                len(batches),
                "cpu",
            )
        )

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "recommendations.parquet"
        times: dict[str, list[float]] = {"memory": [], "file": []}
        for _ in range(2):
            for name, work in (
                ("memory", in_memory),
                ("file", lambda: recommend_to_file(recommender, out, k=10)),
            ):
                began = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - began)
        size = out.stat().st_size
    seconds = {name: min(found) for name, found in times.items()}
    return {
        "beams": beams,
        "users": data.num_users,
        "users_per_s": round(data.num_users / seconds["file"], 1),
        "search_users_per_s": round(data.num_users / seconds["memory"], 1),
        "share": round(seconds["memory"] / seconds["file"], 3),
        "mib": round(size / 2**20, 2),
    }


def training(
    model: ItemTokenRetrievalModel,
    index: PrefixIndex,
    data: PreparedDataset,
    coded: SemanticIdTokenizer,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Targets a second of whole steps of the optimiser, the same batches for both models."""
    examples = SeqData(data, "train", max_history=MAX_ITEMS)
    steps, device = args.steps, args.device
    loader = TrainingBatches(examples, batch_size=args.batch_size, mode="packed", device=device)
    every = list(loader.batches(0))
    order = np.argsort([batch.history.shape[1] for batch in every], kind="stable")
    chosen = [every[i] for i in order[((np.arange(steps) + 0.5) * len(every) / steps).astype(int)]]
    targets = sum(int((batch.targets >= 0).sum()) for batch in chosen)
    table = TokenTable.build(examples, coded.ids, device=device)
    coder = code_model(coded.level_sizes, "item_causal").to(device)
    drawn = ItemTokenRetrievalModel.for_index(
        index, embedding_dim=WIDTH, head=ItemHeadSettings(num_negatives=1024)
    ).to(device)
    recipe = recipe_model(index).to(device)

    def rate(module: torch.nn.Module, loss: Callable[[SequenceBatch], torch.Tensor]) -> float:
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)

        def work() -> None:
            for batch in chosen:
                loss(batch).backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            wait_for(device)

        return targets / best(work, 3)

    ours = rate(model.train(), lambda batch: model(batch, index).loss)
    fewer = rate(drawn, lambda batch: drawn(batch, index).loss)
    of_recipe = rate(recipe, lambda batch: recipe(batch, index).loss)
    theirs = rate(coder.train(), lambda batch: coder(table.tokenize(batch)).loss)
    model.eval()
    return {
        "targets_per_s": round(ours, 1),
        "code_token_targets_per_s": round(theirs, 1),
        "ratio": round(ours / theirs, 2),
        "drawn_negatives_targets_per_s": round(fewer, 1),
        "drawn_negatives_ratio": round(fewer / theirs, 2),
        "recipe_targets_per_s": round(of_recipe, 1),
        "recipe_ratio": round(of_recipe / theirs, 2),
    }


def large(num_items: int) -> dict[str, float]:
    """Whole steps over a synthetic catalogue, with vectors in tables of a fixed size."""
    ids = np.random.default_rng(0).integers(0, CODES, (num_items, LEVELS), dtype=np.int32)
    index = PrefixIndex.from_ids(ids, (CODES,) * LEVELS)
    model = ItemTokenRetrievalModel.for_index(
        index,
        embedding_dim=WIDTH,
        items=ItemVectorSettings(item_rows=2**14),
        tree=TreeSettings(prefix_rows=2**14),
        head=ItemHeadSettings(num_negatives=1024),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    history = torch.randint(0, num_items, (128, 8), generator=generator)
    batch = SequenceBatch(history, history, torch.arange(128), packed=True, padded=False)

    def step() -> None:
        model(batch, index).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def find() -> None:
        model.generate(history, index, num_beams=20, padded=False)

    step()  # makes the tables of the index
    trained = best(step, 8)
    model.eval()
    searched = best(find, 8)
    tables = [index.paths.states, *index.paths.num_below, *index.prefix_hashes]
    tables += [index.hashed_rows(level, 2**14)[:, 0] for level in range(1, LEVELS - 1)]
    total = index.num_bytes + sum(table.numel() * table.element_size() for table in tables)
    return {
        "items": num_items,
        "widest_prefixes": index.max_children,
        "training_step_ms": round(1000 * trained, 2),
        "search_ms": round(1000 * searched, 2),
        "bytes_per_prefix": round(total / sum(index.num_states), 1),
    }


def on_data(data: PreparedDataset, parts: list[str], args: argparse.Namespace) -> dict[str, object]:
    """The parts that need a data set and its IDs."""
    if args.run:
        trained = load_trained(args.run, device=args.device)
        ids, recipe = np.array(trained.catalogue.codes), trained.model
        if not isinstance(recipe, ItemTokenRetrievalModel) or recipe.max_history < MAX_ITEMS:
            raise SystemExit(f"--run must read {MAX_ITEMS} items, one token each, got {args.run}")
        sizes = recipe.level_sizes
        if trained.catalogue.items_fingerprint != data.items_fingerprint:
            raise SystemExit(f"--run must know the items of {data.path}, got others in {args.run}")
    else:
        ids = build_ids(data, policy="reassign").ids
        sizes = (CODES,) * ids.shape[1]
    index = PrefixIndex.from_ids(ids, sizes, device=args.device)
    if not args.run:
        recipe = recipe_model(index).to(args.device).eval()
    model = ItemTokenRetrievalModel.for_index(
        index, embedding_dim=WIDTH, head=ItemHeadSettings(item_head_dtype="auto")
    )
    model = model.to(args.device).eval()
    results: dict[str, object] = {}
    if "training" in parts:
        results["training"] = training(model, index, data, build_ids(data), args)
    if "search" in parts:
        results["search"] = search(model, recipe, index, data, ids, args)
    if "file" in parts:
        few = first_users(data, args.users)
        results["file"] = batch_file(
            recipe if args.run else model, ids, few, int(args.beams.split(",")[0])
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--parts", default="training,search,file,large", help="comma-separated")
    parser.add_argument("--beams", default="20,50", help="comma-separated")
    parser.add_argument("--users", type=int, default=4000, help="of search and file")
    parser.add_argument("--hf-users", type=int, default=64)
    parser.add_argument(
        "--run", help="a trained run, in place of random weights, of search and file"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128, help="windows, of training")
    parser.add_argument("--device", default="cpu", help="of training and search")
    parser.add_argument("--items", default="10000,10000000", help="of synthetic catalogues")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.run and not {"search", "file"} & set(args.parts.split(",")):
        parser.error("--run is of the parts search and file")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    if args.device == "cpu":
        keep_freed_memory()
    data, name = open_data()
    parts = args.parts.split(",")
    results: dict[str, object] = {}
    if parts != ["large"]:
        results |= on_data(data, parts, args)
    if "large" in parts:
        results["large"] = [large(int(count)) for count in args.items.split(",")]
    if not args.json:
        for part, found in results.items():
            print(part, found)
    print(
        json.dumps(
            results
            | {"data": name, "items": data.num_items, "width": WIDTH, "threads": args.threads}
            | {"device": args.device, "batch_size": args.batch_size}
            | {"versions": versions("torch", "transformers")}
        )
    )


if __name__ == "__main__":
    main()
