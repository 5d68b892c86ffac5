"""Evaluate runs: accelerate launch scripts/evaluate_decoder.py RUN_DIR [RUN_DIR ...].

The same as ``genrec evaluate``; see its ``--help``.
"""

import sys

from genrec.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
