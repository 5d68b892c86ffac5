"""Evaluate a stage-two run: accelerate launch scripts/evaluate_decoder.py RUN_DIR."""

import argparse
from pathlib import Path

from genrec.commands.evaluate import evaluate_runs
from genrec.errors import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a stage-two run over all items.")
    parser.add_argument("run_dir", type=Path, help="folder that training printed at its end")
    parser.add_argument("--split", default="test", help="valid or test (default: test)")
    parser.add_argument("--beams", type=int, help="beams (default: those of the run)")
    parser.add_argument(
        "--exclude-history",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="print only the rows where items of the history are left out (default: both)",
    )
    parser.add_argument(
        "--sasrec", type=Path, help="run of scripts/train_sasrec.py, to stand in the table too"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args()
    run_command(
        lambda: evaluate_runs(
            [args.run_dir, args.sasrec] if args.sasrec else [args.run_dir],
            split=args.split,
            num_beams=args.beams,
            hide_history=args.exclude_history,
        ),
        debug=args.debug,
    )


if __name__ == "__main__":
    main()
