"""The sample's run takes new items from its folder alone, and moves with all that it knows."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from genrec import PreparedDataset, Recommender


@pytest.mark.parametrize("told", ["vector", "text"])
def test_a_trained_run_takes_new_items_and_recommends_their_kind(sample_decoder, tmp_path, told):
    """Told by vectors, or by texts, which the run embeds with its own TF-IDF."""
    meta = json.loads((sample_decoder / "meta.json").read_text())
    meta.pop("seal")  # edited by hand
    data = PreparedDataset.load(meta["prepared"])
    twins = np.linspace(0, data.num_items - 1, 20).astype(int)
    run = shutil.copytree(sample_decoder, tmp_path / "moved")
    (run / "meta.json").write_text(json.dumps(meta | {"prepared": "gone"}))
    recommender = Recommender.from_pretrained(run, device="cpu")
    keys = [f"new {row}" for row in twins]
    titles = [f"like {data.item_titles[row]}" for row in twins]
    contents = {"vector": data.item_embeddings[twins]}
    if told == "text":
        contents = {"text": [data.item_texts[row] for row in twins]}
    recommender.add_items({"item_id": keys, "title": titles, **contents})
    assert recommender.num_items == data.num_items + 20
    near = recommender.similar_items(keys, k=10)
    found = [data.item_keys[row] in items for row, items in zip(twins, near.items, strict=True)]
    assert np.mean(found) > 0.9
    assert recommender.titles(recommender.rows(keys)) == titles
    # A history of new items is read as one of the items that they are like.
    own = recommender.recommend([[data.item_keys[row]] for row in twins], k=20)
    new = recommender.recommend([[key] for key in keys], k=20)
    shared = [len({*a} & {*b}) for a, b in zip(own.items, new.items, strict=True)]
    strangers = [len({*a} & {*b}) for a, b in zip(own.items, new.items[::-1], strict=True)]
    assert np.mean(shared) > np.mean(strangers)
    everything = recommender.recommend(["G0316", "G0649"], k=recommender.num_items, num_beams=2000)
    assert set(keys) <= set(everything.items)


def test_a_new_item_without_a_known_word_is_warned_of(sample_decoder):
    recommender = Recommender.from_pretrained(sample_decoder, device="cpu")
    items = {"item_id": ["w1", "w2"], "title": ["", "a"], "text": ["", "Alpine climbing rope"]}
    with pytest.warns(UserWarning, match=r"got 1 without any, for example 'w1': codes of these"):
        recommender.add_items(items)
    assert recommender.num_items == 1002
