from __future__ import annotations

import hashlib
import zipfile

import pytest

from genrec.data.fetch import releases
from genrec.data.fetch.releases import RELEASE_NAMES, RemoteFile, fetch_release, find_release
from genrec.data.readers.registry import open_source
from genrec.errors import DataError

CSV = {
    "ml-latest-small/ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.0,5\n",
    "ml-latest-small/movies.csv": "movieId,title,genres\n1,Toy Story (1995),Comedy\n",
    "ml-latest-small/README.txt": "licence",
}


@pytest.fixture
def network(monkeypatch):
    """A network of files by address; what is asked for is noted."""
    files, asked = {}, []

    def fetch(url, destination, *, checksum=None, **_):
        asked.append((url, checksum))
        if not destination.is_file():
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(files[url])
        return destination

    monkeypatch.setattr(releases, "fetch", fetch)
    return files, asked


def zip_bytes(tmp_path, members):
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return (tmp_path / "made.zip").read_bytes()


def test_every_name_leads_to_https_addresses():
    for name in RELEASE_NAMES:
        release = find_release(name.replace("<Category>", "Video_Games"))
        assert release is not None, name
        for file in release.files:
            assert file.url.startswith("https://")
            assert "/" not in file.name
    assert find_release("beauty").files[0].url.endswith("/reviews_Beauty_5.json.gz")
    assert find_release("beauty").split == "Beauty"
    assert find_release("ml-1m").files[0].checksum == "md5:c4d9eecfca2ab87c1945afe126590906"


@pytest.mark.parametrize(
    "name",
    ["", "ml-2m", "amazon-2014/", "amazon-2014/../etc", "amazon-2019/Books", "p5/books", "Books"],
)
def test_names_that_are_none(name):
    assert find_release(name) is None


def test_movielens_is_unpacked_once_and_checked_with_the_published_digest(tmp_path, network):
    files, asked = network
    release = find_release("ml-latest-small")
    archive = zip_bytes(tmp_path, CSV)
    digest = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    files[release.files[0].url] = archive
    files[release.files[0].checksum_url] = f"MD5 (ml-latest-small.zip) = {digest}\n".encode()
    folder = fetch_release(release, tmp_path / "raw")
    assert asked == [
        (release.files[0].checksum_url, None), (release.files[0].url, f"md5:{digest}"),
    ]  # fmt: skip
    assert open_source(release.kind, folder).read().interactions.shape == (1, 4)
    assert fetch_release(release, tmp_path / "raw") == folder
    assert len(asked) == 2


def test_a_digest_that_is_none(tmp_path, network):
    release = find_release("ml-latest-small")
    network[0][release.files[0].checksum_url] = b"<html>moved</html>"
    with pytest.raises(DataError, match="checksum file must hold an MD5, got '<html>moved"):
        fetch_release(release, tmp_path)
    assert not list(tmp_path.rglob("*.md5"))


def test_amazon_files_lie_where_training_looks_for_them(tmp_path, network):
    files, _ = network
    release = find_release("beauty")
    for file in release.files:
        files[file.url] = b"{}"
    folder = fetch_release(release, tmp_path)
    assert folder == tmp_path / "amazon"
    assert {path.name for path in folder.glob("*.gz")} == {
        "reviews_Beauty_5.json.gz", "meta_Beauty.json.gz",
    }  # fmt: skip


def test_p5_takes_the_three_files_of_each_split_only(tmp_path, network):
    release = find_release("p5/toys")
    members = {
        f"data/{split}/{name}": "x"
        for split in ("beauty", "toys", "yelp")
        for name in ("sequential_data.txt", "datamaps.json", "meta.json.gz", "review_splits.pkl")
    }
    network[0][release.files[0].url] = zip_bytes(tmp_path, members)
    folder = fetch_release(release, tmp_path / "raw")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    assert found == [
        f"{split}/{name}"
        for split in ("beauty", "toys")
        for name in ("datamaps.json", "meta.json.gz", "sequential_data.txt")
    ]
    assert release.split == "toys"


def test_remote_files_need_no_checksum():
    assert RemoteFile("https://x/y", "y").checksum is None
