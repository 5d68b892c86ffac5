"""A shop so small that every command on it takes a second or two, and its runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from soaking.child import run

__all__ = ["DECODER", "RQVAE", "Shop", "bindings"]

_RECIPES = Path(__file__).resolve().parents[2] / "configs"
_COLOURS = ["red", "blue", "green", "black", "white", "grey"]
_THINGS = ["cup", "plate", "bowl", "spoon", "fork", "knife", "pan", "pot", "lid", "tray"]

RQVAE = {
    "iterations": 12,
    "epochs": None,
    "eval_every": 4,
    "save_model_every": 2,
    "log_every": 1,
    "batch_size": 16,
    "kmeans_after_epochs": 1,
    "warmup_steps": 2,
    "vae_embed_dim": 8,
    "vae_hidden_dims": [16],
    "vae_codebook_size": 8,
    "vae_n_layers": 3,
}
DECODER = {
    "iterations": 12,
    "epochs": None,
    "full_eval_every": 6,
    "save_model_every": 2,
    "log_every": 1,
    "batch_size": 16,
    "warmup_steps": 2,
    "decoder_embed_dim": 16,
    "ff_dim": 16,
    "num_beams": 6,
    "top_k_eval_list": [5, 10],
}


def bindings(**settings: object) -> list[str]:
    """Write settings as words of a command line."""
    return [
        word for name, value in settings.items() for word in ("--gin", f"train.{name}={value!r}")
    ]


@dataclass(frozen=True)
class Shop:
    """Tables, the data set prepared of them, and a run of each stage.

    Attributes:
        path: Everything lies below it.
    """

    path: Path

    @classmethod
    def build(cls, path: Path) -> Shop:
        """Write the tables and run every command once."""
        shop = cls(path)
        shop.tables.mkdir(parents=True)
        draw = random.Random(0)
        names = [f"{colour} {thing}" for colour in _COLOURS for thing in _THINGS]
        rows = [f"i{n:02d},{name},kitchen ware of kind {n % 7}" for n, name in enumerate(names)]
        (shop.tables / "items.csv").write_text("\n".join(["item_id,title,text", *rows, ""]))
        log = ["user_id,item_id,timestamp"]
        for user in range(80):
            at = draw.randrange(60)
            for time in range(draw.randint(4, 9)):
                log.append(f"u{user:02d},i{at:02d},{1_600_000_000 + 1000 * user + time}")
                at = (at + draw.choice((1, 1, 2, 10))) % 60
        (shop.tables / "interactions.csv").write_text("\n".join([*log, ""]))
        for words in (
            shop.prepare(shop.data),
            shop.train_rqvae(shop.rqvae),
            shop.train_decoder(shop.decoder),
        ):
            done = run(words, path)
            if done.status != 0:
                raise SystemExit(f"the shop must be built, got {done.status}: {done.errors}")
        return shop

    @property
    def tables(self) -> Path:
        """Folder of the two CSV files."""
        return self.path / "tables"

    @property
    def data(self) -> Path:
        """Prepared data set."""
        return self.path / "data"

    @property
    def rqvae(self) -> Path:
        """Run of stage one."""
        return self.path / "rqvae"

    @property
    def decoder(self) -> Path:
        """Run of stage two."""
        return self.path / "decoder"

    def prepare(self, out: Path) -> list[str]:
        """Words that prepare the tables."""
        words = ["prepare", str(self.tables), "--encoder", "tfidf:16", "--out", str(out)]
        return [*words, "--force"]

    def train_rqvae(self, run_dir: Path, **more: object) -> list[str]:
        """Words that train stage one; the same ones go on with it."""
        settings = {
            **RQVAE,
            "save_dir_root": str(run_dir),
            "dataset_folder": str(self.data),
            **more,
        }
        recipe = str(_RECIPES / "rqvae" / "sample.gin")
        return ["train", "rqvae", recipe, *bindings(**settings), "--resume", "--threads", "1"]

    def train_decoder(self, run_dir: Path, **more: object) -> list[str]:
        """Words that train stage two; the same ones go on with it."""
        settings = {
            **DECODER,
            "save_dir_root": str(run_dir),
            "pretrained_rqvae_path": str(self.rqvae),
            "dataset_folder": str(self.data),
            **more,
        }
        recipe = str(_RECIPES / "decoder" / "sample.gin")
        return ["train", "decoder", recipe, *bindings(**settings), "--resume", "--threads", "1"]
