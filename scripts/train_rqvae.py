"""Train stage one, the tokenizer: accelerate launch scripts/train_rqvae.py [RECIPE].

The same as ``genrec train rqvae [RECIPE]``; see its ``--help``.
"""

import sys

from genrec.cli import main

if __name__ == "__main__":
    main(["train", "rqvae", *sys.argv[1:]])
