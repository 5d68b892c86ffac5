"""Train SASRec, the item-id baseline: accelerate launch scripts/train_sasrec.py [CONFIG]."""

from pathlib import Path

from genrec.config import parse_arguments, run
from genrec.training.sasrec import train

if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "configs" / "sasrec" / "amazon.gin"
    run(train, parse_arguments("Train the SASRec baseline.", default_config=default))
