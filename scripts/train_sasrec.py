"""Train SASRec, the item-id baseline: accelerate launch scripts/train_sasrec.py [RECIPE].

The same as ``genrec train sasrec [RECIPE]``; see its ``--help``.
"""

import sys

from genrec.cli import main

if __name__ == "__main__":
    main(["train", "sasrec", *sys.argv[1:]])
