"""What a large catalogue takes: bytes a row of each table, targets a second, and what shards cost.

Catalogues are synthetic, with random codes: the worst case for an index, whose prefixes are then
as many as they can be. The bytes are those of the arrays, and linear in the rows. Times are those
of the processor, on one thread, so that what else a machine does counts little.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from _bench import versions

from genrec.allocator import keep_freed_memory
from genrec.data.prepared import StringArray
from genrec.data.schemas import SequenceBatch, TokenizedBatch
from genrec.decoding.trie import PrefixIndex
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import ItemHeadSettings, ItemVectorSettings, TreeSettings
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.modules.kernels.dropout import dropout

LEVELS, CODES = 4, 256
WINDOWS, ITEMS = 128, 20  # of a batch


def bytes_of(*tables: torch.Tensor) -> int:
    return sum(table.numel() * table.element_size() for table in tables)


def sizes(index: PrefixIndex, num_items: int) -> dict[str, float]:
    """Bytes a row of what grows with the catalogue, the users or the log."""
    keys = StringArray.from_strings([f"B{n:09d}" for n in range(num_items)])
    paths = [index.paths.states, *index.paths.num_below, *index.prefix_hashes]
    rows = {
        "item key, 10 letters": (keys.data.nbytes + keys.offsets.nbytes) / num_items,
        "semantic ID, 4 codes, int32": 4.0 * LEVELS,
        "prefix index": index.num_bytes / num_items,
        "paths and hashes, for item tokens": bytes_of(*paths) / num_items,
        "text vector, width 384, float32": 4.0 * 384,
        "own vector, width 64, with gradient and two moments": 4.0 * 64 * 4,
        "interaction": 4.0,
        "user: offset and the ends of two parts": 3 * 8.0,
    }
    return {name: round(value, 1) for name, value in rows.items()}


def targets_per_s(model: torch.nn.Module, loss: Callable[[], torch.Tensor], steps: int) -> float:
    """Targets a second of whole steps of the optimiser, the fastest of some rounds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    model.train()
    times = []
    for _ in range(steps + 1):
        began = time.process_time()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - began)
    return WINDOWS * ITEMS / min(times[1:])


def batch_of(num_items: int) -> SequenceBatch:
    history = torch.randint(0, num_items, (WINDOWS, ITEMS))
    return SequenceBatch(history, history, torch.arange(WINDOWS), packed=True, padded=False)


def item_model(index: PrefixIndex, **options: object) -> ItemTokenRetrievalModel:
    return ItemTokenRetrievalModel.for_index(
        index, head=ItemHeadSettings(num_negatives=1024), dropout=(0.3, 0.1), **options
    )


def training(
    index: PrefixIndex, codes: torch.Tensor, hashed: list[int], steps: int
) -> dict[str, float]:
    """Targets a second of both forms, in tables that do not grow with the catalogue."""
    batch = batch_of(len(codes))
    rates = {}
    for rows in hashed:
        items, tree = ItemVectorSettings(item_rows=rows), TreeSettings(prefix_rows=rows)
        model = item_model(index, items=items, tree=tree)
        rate = targets_per_s(model, lambda model=model: model(batch, index).loss, steps)
        rates[f"item_tokens_{rows}_rows"] = round(rate)
    coder = EncoderDecoderRetrievalModel(
        embedding_dim=64,
        attn_dim=64,
        dropout=0.1,
        num_heads=4,
        n_layers=4,
        ff_dim=256,
        num_embeddings=(CODES,) * LEVELS,
        sem_id_dim=LEVELS,
        encoder_mask="item_causal",
    )
    tokens = TokenizedBatch(
        codes[batch.history], codes[batch.targets], batch.user_ids, packed=True, padded=False
    )
    return rates | {"code_tokens": round(targets_per_s(coder, lambda: coder(tokens).loss, steps))}


def shards(rounds: int) -> dict[str, float]:
    """Times of a step that one process takes in 2 or 4 shards, as shares of the whole step's."""
    ids = np.random.default_rng(0).integers(0, CODES, (12_000, LEVELS), dtype=np.int32)
    index = PrefixIndex.from_ids(ids, (CODES,) * LEVELS)
    model = item_model(index).train()
    batch = batch_of(len(ids))
    times: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(rounds):  # in turn, so that what else the machine does meets all alike
        for count, taken in times.items():
            began = time.process_time()
            for shard in range(count):
                history = batch.history[shard::count]
                part = SequenceBatch(
                    history, history, batch.user_ids[shard::count], packed=True, padded=False
                )
                (model(part, index).loss / count).backward()
            model.zero_grad()
            taken.append(time.process_time() - began)
    best = {count: min(taken) for count, taken in times.items()}
    return {f"{count}_shards": round(best[count] / best[1], 3) for count in (2, 4)}


def masks(rounds: int) -> dict[str, float]:
    """Microseconds of a mask: from the generator, as now, and by hashing example and position."""
    x = torch.ones(WINDOWS, ITEMS, 256)
    keys = torch.randint(-(2**62), 2**62, (WINDOWS, 1))
    places = torch.arange(ITEMS * 256 // 4).unsqueeze(0)

    def hashed() -> torch.Tensor:
        words = keys + places * -7046029254386353131
        words ^= words >> 29
        words *= -4658895280553007687
        words ^= words >> 32
        draws = words.view(torch.int16).view(x.shape)
        return x * (draws >= -(2**14)).to(x.dtype).mul_(4 / 3)

    ways = {"generator": lambda: dropout(x, 0.25, True), "by_example": hashed}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            times[name].append(time.process_time() - began)
    return {name: round(1e6 * min(taken)) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--items", type=int, default=1_000_000, help="of the synthetic catalogue")
    parser.add_argument("--rows", default="16384,1048576", help="of the tables of item tokens")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    ids = np.random.default_rng(0).integers(0, CODES, (args.items, LEVELS), dtype=np.int32)
    index = PrefixIndex.from_ids(ids, (CODES,) * LEVELS)
    results: dict[str, object] = {
        "targets_per_core_second": training(
            index,
            torch.from_numpy(ids).long(),
            [int(rows) for rows in args.rows.split(",")],
            args.steps,
        ),
        "bytes_a_row": sizes(index, args.items),
        "step_in_shards": shards(args.steps),
        "mask_us": masks(10 * args.steps),
    }
    if not args.json:
        for part, found in results.items():
            print(part, found)
    about = {"items": args.items, "versions": versions("torch")}
    print(json.dumps(results | about))


if __name__ == "__main__":
    main()
