"""Users a second by onnxruntime beside torch, the same histories to both.

Of the run that --run names, exported first where --onnx does not name what was exported; without
a run, of a model with random weights in the shape of configs/decoder/amazon_items.gin.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _bench import build_ids, open_data, versions

from genrec.atomic import write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.data.catalogue import Catalogue
from genrec.decoding.trie import PrefixIndex
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import HistorySettings, ItemVectorSettings, TreeSettings
from genrec.serving.onnx import OnnxRecommender
from genrec.serving.onnx_export import check_histories, same_items
from genrec.serving.recommender import Recommender


def random_run(folder: Path) -> Path:
    """Write a run whose model was not trained: weights change no shape."""
    data, _ = open_data()
    table = build_ids(data, policy="reassign")
    model = ItemTokenRetrievalModel.for_index(
        PrefixIndex.from_ids(table.ids, table.level_sizes),
        embedding_dim=64,
        items=ItemVectorSettings(item_codes=False),
        tree=TreeSettings(vectors_per_prefix=(16,), items_from=1),
        history=HistorySettings(seen_weights=True, seen_start=-10.0),
    )
    RunDirectory(folder).save(
        0, weights=model.state_dict(), config=model.saved_config(), pointers=("best",)
    )
    table.save(folder / "semantic_ids")
    Catalogue.from_data(data).save(folder)
    evaluation = {"num_beams": 30, "max_history": 20, "rescore": 1.0}
    meta = {"prepared": str(data.path), "dataset": data.meta["name"], "evaluation": evaluation}
    write_json_atomic(folder / "meta.json", meta)
    return folder


def measure(
    ways: dict[str, Callable[..., Any]], histories: list[list[str]], batch: int, seconds: float
) -> dict[str, float]:
    """Users a second of each way in its best turn, and users a second of all cores' work.

    Ways take turns, so that what else the machine does strikes all alike; the second figure it
    hardly changes.
    """
    some = histories[: max(batch, 64)]
    best, work = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    for recommend in ways.values():
        recommend(some[:batch])
    end, turns = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or not turns:
        turns += 1
        for name, recommend in ways.items():
            began, busy = time.perf_counter(), time.process_time()
            for at in range(0, len(some), batch):
                recommend(some[at : at + batch])
            best[name] = max(best[name], len(some) / (time.perf_counter() - began))
            work[name] += time.process_time() - busy
    found = {f"{name}_users_per_s": round(rate, 1) for name, rate in best.items()}
    found |= {
        f"{name}_users_per_core_s": round(turns * len(some) / spent, 1)
        for name, spent in work.items()
    }
    ratio = work["torch"] / work["onnx"]
    return found | {"ratio": round(best["onnx"] / best["torch"], 2), "core_ratio": round(ratio, 2)}


def compare(args: argparse.Namespace, temporary: Path) -> dict[str, Any]:
    """Export where it is not done, check, and measure each size of a call."""
    ours = Recommender.from_pretrained(args.run or random_run(temporary / "run"), device="cpu")
    about: dict[str, Any] = {}
    folder = args.onnx
    if folder is None:
        began, folder = time.perf_counter(), temporary / "onnx"
        ours.save_onnx(folder, precision=args.precision, least_share=0.0, num_users=1)
        about["export_s"] = round(time.perf_counter() - began, 1)
    theirs = OnnxRecommender.from_pretrained(folder, threads=args.threads)
    catalogue = Catalogue(ours.item_keys, ours.item_keys)
    histories = check_histories(catalogue, ours.data, args.users, ours.ranker.max_history)
    about["check"] = same_items(ours.recommend(histories), theirs.recommend(histories))
    ways = {"torch": ours.recommend, "onnx": theirs.recommend}
    results = []
    for batch in (int(size) for size in args.batches.split(",")):
        results.append({"batch": batch, **measure(ways, histories, batch, args.seconds)})
        if not args.json:
            print(results[-1])
    about |= {"model": repr(theirs), "threads": args.threads}
    return {"results": results, **about, "versions": versions("torch", "onnxruntime")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--run", type=Path, help="a run of a decoder or of SASRec")
    parser.add_argument("--onnx", type=Path, help="what `genrec export --onnx` made of it")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--batches", default="1024,32,1", help="users of a call, comma-separated")
    parser.add_argument("--seconds", type=float, default=10, help="of each size of a call")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(compare(args, Path(temporary))))


if __name__ == "__main__":
    main()
