"""Train stage two, the retrieval model: accelerate launch scripts/train_decoder.py [RECIPE].

The same as ``genrec train decoder [RECIPE]``; see its ``--help``.
"""

import sys

from genrec.cli import main

if __name__ == "__main__":
    main(["train", "decoder", *sys.argv[1:]])
