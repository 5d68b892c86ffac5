"""Train stage two, the retrieval model: accelerate launch scripts/train_decoder.py [CONFIG]."""

from pathlib import Path

from genrec.config import parse_arguments, run
from genrec.training.decoder import train

if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "configs" / "decoder" / "amazon.gin"
    run(train, parse_arguments("Train the retrieval model.", default_config=default))
