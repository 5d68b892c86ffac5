"""Train stage two, the retrieval model: accelerate launch scripts/train_decoder.py [CONFIG]."""

from pathlib import Path

from genrec.config import parse_arguments, run
from genrec.training.decoder import DecoderSettings, train

if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "configs" / "decoder" / "amazon.gin"
    run(
        DecoderSettings,
        train,
        parse_arguments("Train stage two.", default_config=default),
    )
