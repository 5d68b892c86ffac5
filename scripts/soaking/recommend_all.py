"""Recommend to all users of a run's data set into a file, in chunks so small that some are left."""

import sys
from pathlib import Path

from genrec.serving.files import recommend_to_file
from genrec.serving.recommender import Recommender

if __name__ == "__main__":
    run, out = sys.argv[1:3]
    recommender = Recommender.from_pretrained(run)
    recommend_to_file(recommender, Path(out) / "recommended.csv", chunk_size=8, k=5)
