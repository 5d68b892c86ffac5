"""Train stage one, the tokenizer: accelerate launch scripts/train_rqvae.py [CONFIG]."""

from pathlib import Path

from genrec.config import parse_arguments, run
from genrec.training.rqvae import RqVaeSettings, train

if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "configs" / "rqvae" / "amazon.gin"
    run(RqVaeSettings, train, parse_arguments("Train stage one.", default_config=default))
