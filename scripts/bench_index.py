"""Size, build time and step time of the prefix index on random catalogues."""

import argparse
import json
import os
import time

import numpy as np
import torch
from _bench import versions

from genrec.decoding.trie import PrefixIndex

LEVELS = 4
USERS, BEAMS = 32, 20


def step_ms(index: PrefixIndex, repeats: int) -> float:
    """Median time of one step, over all levels, for 32 users of 20 beams."""
    generator = torch.Generator().manual_seed(0)
    states = [
        torch.randint(0, count, (USERS, BEAMS), generator=generator).to(index.device)
        for count in index.num_states[:-1]
    ]
    times = []
    for _ in range(repeats):
        if index.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for level, state in enumerate(states):
            index.step(state, level)
        if index.device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / len(states))
    return 1000 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--items", default="10000,100000,1000000,10000000", help="comma-separated")
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for num_items in (int(count) for count in args.items.split(",")):
        rng = np.random.default_rng(0)
        ids = rng.integers(0, args.codes, (num_items, LEVELS), dtype=np.int32)
        began = time.perf_counter()
        index = PrefixIndex.from_ids(ids, (args.codes,) * LEVELS, device=args.device)
        build_s = time.perf_counter() - began
        results.append(
            {
                "items": num_items,
                "levels": LEVELS,
                "codes": args.codes,
                "build_s": round(build_s, 3),
                "bytes_per_item": round(index.num_bytes / num_items, 2),
                "step_ms": round(step_ms(index, 200), 4),
            }
        )
        if not args.json:
            print(results[-1], flush=True)
    print(json.dumps({"results": results, "device": args.device, "versions": versions("torch")}))


if __name__ == "__main__":
    main()
