"""Time and memory of giving semantic IDs to a catalogue that is memory-mapped from a file."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _bench import versions

from genrec.models.rqvae import RqVae
from genrec.tokenizer.policies import POLICIES
from genrec.tokenizer.quantizer import read_rows
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer

GROUPS, KINDS_PER_GROUP, BLOCK = 500, 40, 262_144


def write_items(path: Path, num_items: int, width: int) -> None:
    """Write items in uneven groups of kinds, as catalogues are, block by block."""
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(GROUPS, width))
    kinds = groups.repeat(KINDS_PER_GROUP, axis=0) + 0.5 * rng.normal(
        size=(GROUPS * KINDS_PER_GROUP, width)
    )
    shares = rng.dirichlet(np.full(len(kinds), 0.5))
    items = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(num_items, width))
    for start in range(0, num_items, BLOCK):
        part = items[start : start + BLOCK]
        kind = rng.choice(len(kinds), size=len(part), p=shares)
        part[:] = kinds[kind] + 0.5 * rng.normal(size=part.shape)


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM in /proc/self/status")


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Tokenize the file in this process."""
    items = np.load(args.file, mmap_mode="r")
    sizes = (args.codes,) * args.levels
    model: RqVae | ResidualKMeans
    if args.quantizer == "rqvae":
        torch.manual_seed(0)
        model = RqVae(items.shape[1], codebook_size=args.codes, n_layers=args.levels).eval()
        sample = np.sort(
            np.random.default_rng(0).choice(len(items), min(len(items), 20_000), False)
        )
        model.initialize_codebooks(torch.from_numpy(read_rows(items, sample)), num_iters=10)
    else:
        model = ResidualKMeans.fit(items, codebook_sizes=sizes, num_iters=20, max_samples=20_000)
    model.to(args.device)
    base = peak_mib()
    began = time.perf_counter()
    table = SemanticIdTokenizer.build(model, items, policy=args.policy)
    seconds = time.perf_counter() - began
    return {
        "items": len(items),
        "width": items.shape[1],
        "file_mib": round(items.nbytes / 2**20, 1),
        "quantizer": args.quantizer,
        "codes": list(sizes),
        "policy": args.policy,
        "seconds": round(seconds, 2),
        "items_per_s": round(len(items) / seconds),
        "peak_mib": round(peak_mib(), 1),
        "peak_mib_before": round(base, 1),
        "collision_rate": round(table.statistics["collision_rate"], 4),
        "left_items_sharing_id": table.statistics["left_items_sharing_id"],
        "added_distortion": round(table.statistics["added_distortion"], 5),
        "fingerprint": table.fingerprint,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--policies", default="dedup_token", help=f"of {','.join(POLICIES)}")
    parser.add_argument("--quantizer", choices=("residual_kmeans", "rqvae"), default="rqvae")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", help="where the items are written, 4 * items * width bytes")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--policy", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.file:
        print(json.dumps(measure(args)))
        return
    results = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        file = Path(folder) / "items.npy"
        write_items(file, args.items, args.width)
        for policy in args.policies.split(","):
            # A process of its own: peak memory is that of the work, not of writing the file.
            command = [sys.executable, __file__, *sys.argv[1:], "--file", str(file)]
            done = subprocess.run(
                [*command, "--policy", policy], check=True, stdout=subprocess.PIPE, text=True
            )
            results.append(json.loads(done.stdout))
            if not args.json:
                print(results[-1], flush=True)
    print(json.dumps({"results": results, "threads": args.threads, "versions": versions("torch")}))


if __name__ == "__main__":
    main()
