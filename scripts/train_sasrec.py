"""Train SASRec, the item-id baseline: accelerate launch scripts/train_sasrec.py [CONFIG]."""

from pathlib import Path

from genrec.config import parse_arguments, run
from genrec.training.sasrec import SasRecSettings, train

if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "configs" / "sasrec" / "amazon.gin"
    run(SasRecSettings, train, parse_arguments("Train SASRec.", default_config=default))
