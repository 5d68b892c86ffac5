"""From tables in Python to recommendations: prepare, train both stages, recommend, add an item.

A shop of 48 cups and forks in which everybody stays with one colour; it takes some seconds. Run it
in an empty folder, which gets the files: ``python own_tables.py``.
"""

import random
from pathlib import Path

import polars as pl

from genrec import Recommender
from genrec.data.prepare import prepare
from genrec.data.readers.own_tables import read_tables
from genrec.data.text.encoders import make_encoder
from genrec.training import decoder, rqvae

COLOURS = ("red", "blue", "green", "yellow")
random.seed(0)
items = pl.DataFrame(
    [
        {"sku": f"{colour}-{n}", "name": f"{colour} {what} number {n}", "kind": f"{colour} {what}"}
        for colour in COLOURS
        for n in range(12)
        for what in ["cup" if n % 2 else "fork"]
    ]
)
visits = [(f"customer {c}", f"{random.choice(COLOURS)}-") for c in range(200)]
sales = pl.DataFrame(
    [
        {"customer": customer, "sku": f"{colour}{n}", "date": f"2024-03-{day:02d}"}
        for customer, colour in visits
        for day, n in enumerate(random.sample(range(12), 6), start=1)
    ]
)
items.write_csv("items.csv")
sales.write_csv("sales.csv")

tables = read_tables(items="items.csv", interactions="sales.csv", name="shop")
prepare(tables, Path("shop"), encoder=make_encoder("tfidf"))

stage_one = rqvae.train(
    rqvae.RqVaeSettings(
        dataset="tables", dataset_folder="shop", save_dir_root="runs/rqvae", iterations=200,
        batch_size=48, learning_rate=4e-3, vae_embed_dim=16, vae_hidden_dims=(64,),
        vae_codebook_size=8, vae_n_layers=3, collision_policy="reassign",
    )
)  # fmt: skip
stage_two = decoder.train(
    decoder.DecoderSettings(
        pretrained_rqvae_path=str(stage_one), save_dir_root="runs/decoder", epochs=12,
        batch_size=32, learning_rate=3e-3, encoder_tokens="item", train_mode="packed",
        decoder_embed_dim=32, attn_heads=2, attn_layers=(1, 1), ff_dim=64, start_weight=0.5,
        num_beams=10,
    )
)  # fmt: skip

recommender = Recommender.from_pretrained(stage_two)
print(recommender)
print(recommender.recommend(["red-1", "red-2", "red-3"], k=3))
recommender.add_items([("red-99", "red bowl", "Name: red bowl; Kind: red bowl")])
print(recommender.similar_items("red-99", k=3))
found = recommender.recommend(users=["customer 0", "customer 1"], k=3)
print(found.to_polars())
