"""Break the commands and see what is left: kills, faults, flipped bits and fuzzed inputs.

    python scripts/soak.py --json --kills 100 --flips 500 --fuzz 20000

Everything lies in a temporary folder (``TMPDIR`` says where; a folder in memory is fastest).
Status 0 where nothing was lost and nothing changed in silence.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

PARTS = ("kills", "faults", "flips", "fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="SIGKILLs, over all commands")
    parser.add_argument("--faults", type=int, default=None, help="faults to try [all]")
    parser.add_argument("--flips", type=int, default=100, help="flipped bits, over all artefacts")
    parser.add_argument("--fuzz", type=int, default=1_000, help="fuzzed inputs, over all readers")
    parser.add_argument("--seconds", type=float, default=3_600, help="most time of the fuzzing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PARTS, action="append", help="may be repeated [all]")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    told = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true", HF_HUB_OFFLINE="1")
    from soaking.shop import Shop

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    began, wanted, failures = time.monotonic(), told.only or PARTS, []
    found: dict[str, int | float] = {}
    with tempfile.TemporaryDirectory(prefix="genrec-soak-") as folder:
        Path(folder).chmod(0o755)
        shop = Shop.build(Path(folder) / "shop")
        say("built a small shop and its runs")
        if "kills" in wanted:
            from soaking.kills import kill_all

            kills = kill_all(shop, told.kills, seed=told.seed, say=say)
            found |= {"kills": kills.kills, "kills_ok": kills.ok}
            failures += kills.failures
        if "faults" in wanted:
            from soaking.faults import fault_all

            faults = fault_all(shop, told.faults, say=say)
            found |= {"faults": faults.faults, "faults_ok": faults.ok}
            failures += faults.failures
        warnings.simplefilter("ignore")
        if "flips" in wanted:
            from soaking.flips import flip_all

            flips = flip_all(shop, told.flips, seed=told.seed, say=say)
            found |= {"flips": flips.flips, "flips_silent": len(flips.failures)}
            failures += flips.failures
        if "fuzz" in wanted:
            from soaking.fuzz import fuzz_all

            fuzz = fuzz_all(shop, told.fuzz, seed=told.seed, seconds=told.seconds, say=say)
            found |= {"fuzz_inputs": fuzz.inputs, "fuzz_failures": len(fuzz.failures)}
            failures += fuzz.failures
    for failure in failures:
        say(failure)
    found["seconds"] = round(time.monotonic() - began)
    if told.json:
        print(json.dumps(found))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
