"""The public releases that can be fetched by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from genrec.data.fetch.download import fetch
from genrec.data.fetch.unpack import unpack
from genrec.errors import DataError

__all__ = [
    "AMAZON_CATEGORIES",
    "P5_FILES",
    "RELEASE_NAMES",
    "Release",
    "RemoteFile",
    "fetch_release",
    "find_release",
]

#: Short names of categories, as the literature writes them.
AMAZON_CATEGORIES = {
    "beauty": "Beauty",
    "sports": "Sports_and_Outdoors",
    "toys": "Toys_and_Games",
}
#: What a split of the P5 release consists of.
P5_FILES = ("sequential_data.txt", "datamaps.json", "meta.json.gz")

_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
_P5 = (
    "https://drive.usercontent.google.com/download"
    "?id=1qGxgmx7G_WB7JE4Cn_bEcZ_o_NAJLE3G&export=download&confirm=t"
)

#: Checksums that GroupLens publishes beside the archives.
_MOVIELENS_MD5 = {
    "ml-100k": "0e33842e24a9c977be4e0107933c0723",
    "ml-1m": "c4d9eecfca2ab87c1945afe126590906",
    "ml-20m": "cd245b17a1ae2cc31bb14903e1204af3",
    "ml-25m": "6b51fb2759a8657d3bfcbfc42b592ada",
    "ml-32m": "d472be332d4daa821edc399621853b57",
    "ml-latest-small": None,  # renewed now and then; its checksum is fetched with it
}
_P5_SPLITS = ("beauty", "sports", "toys")

#: What can be asked for; ``<Category>`` is the release's own name, for example ``Video_Games``.
RELEASE_NAMES = (
    *AMAZON_CATEGORIES,
    *(f"p5/{split}" for split in _P5_SPLITS),
    "amazon-2014/<Category>",
    "amazon-2018/<Category>",
    "amazon-2023/<Category>",
    *_MOVIELENS_MD5,
)


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        url: Its address.
        name: Name to keep it under.
        checksum: ``"md5:<hex>"`` or ``"sha256:<hex>"``, where its publisher states one.
        checksum_url: Address of a file with its MD5, where the release is renewed.
    """

    url: str
    name: str
    checksum: str | None = None
    checksum_url: str | None = None


@dataclass(frozen=True)
class Release:
    """A data set that can be fetched.

    Attributes:
        name: What the user asks for.
        kind: Value of a :class:`genrec.data.processed.RecDataset`.
        split: Part of it, for the reader.
        folder: Where below the raw folder it lies.
        files: What to fetch.
    """

    name: str
    kind: str
    split: str | None
    folder: str
    files: tuple[RemoteFile, ...]


def find_release(name: str) -> Release | None:
    """Find a release by name, for example ``"beauty"`` or ``"ml-1m"``; None if there is none."""
    if name in _MOVIELENS_MD5:
        url, md5 = f"{_GROUPLENS}/{name}.zip", _MOVIELENS_MD5[name]
        file = RemoteFile(
            url,
            f"{name}.zip",
            checksum=f"md5:{md5}" if md5 else None,
            checksum_url=None if md5 else f"{url}.md5",
        )
        return Release(name, name, None, name, (file,))
    source, _, part = name.partition("/")
    if source == "p5" and part in _P5_SPLITS:
        return Release(name, "amazon", part, "amazon-p5", (RemoteFile(_P5, "P5_data.zip"),))
    if name in AMAZON_CATEGORIES:
        source, part = "amazon-2014", AMAZON_CATEGORIES[name]
    if not re.fullmatch(r"[A-Z][A-Za-z_]+", part):
        return None
    addresses = {
        "amazon-2014": (f"{_SNAP}/reviews_{part}_5.json.gz", f"{_SNAP}/meta_{part}.json.gz"),
        "amazon-2018": (
            f"{_UCSD}/amazon_v2/categoryFilesSmall/{part}_5.json.gz",
            f"{_UCSD}/amazon_v2/metaFiles2/meta_{part}.json.gz",
        ),
        "amazon-2023": (
            f"{_UCSD}/amazon_2023/raw/review_categories/{part}.jsonl.gz",
            f"{_UCSD}/amazon_2023/raw/meta_categories/meta_{part}.jsonl.gz",
        ),
    }.get(source)
    if addresses is None:
        return None
    files = tuple(RemoteFile(url, Path(urlsplit(url).path).name) for url in addresses)
    folder = "amazon" if source == "amazon-2014" else source
    return Release(name, "amazon", part, folder, files)


def fetch_release(release: Release, raw_dir: Path) -> Path:
    """Fetch what is missing of a release below ``raw_dir``, unpack it, give its reader's folder.

    Raises:
        DataError: If a file cannot be fetched or is not what it should be.
    """
    folder = raw_dir / release.folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        return _fetch_files(release, folder)


def _fetch_files(release: Release, folder: Path) -> Path:
    for file in release.files:
        path = folder / file.name
        if path.suffix != ".zip":
            fetch(file.url, path, checksum=file.checksum)
            continue
        unpacked = folder / "files"
        if unpacked.is_dir():
            continue
        checksum = file.checksum
        if file.checksum_url is not None:
            checksum = _published_md5(file, folder)
        fetch(file.url, path, checksum=checksum)
        unpack(path, unpacked, place=_p5_place if release.folder == "amazon-p5" else _flat_place)
    return folder / "files" if (folder / "files").is_dir() else folder


def _published_md5(file: RemoteFile, folder: Path) -> str:
    """Fetch the checksum that stands beside a file that is renewed now and then."""
    assert file.checksum_url is not None
    path = folder / f"{file.name}.md5"
    if not (folder / file.name).is_file():
        path.unlink(missing_ok=True)  # an old one must not judge a new file
    text = fetch(file.checksum_url, path).read_text(encoding="utf-8", errors="replace")
    match = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if match is None:
        path.unlink()
        raise DataError(
            f"checksum file must hold an MD5, got {text[:40]!r} from {file.checksum_url}; try again"
        )
    return f"md5:{match[0]}"


def _flat_place(name: str) -> str | None:
    """Put the files of a release, which lie in one folder, right into the target."""
    parts = name.split("/")
    return parts[-1] if len(parts) == 2 and parts[-1] else name


def _p5_place(name: str) -> str | None:
    """Take the three files of each split; the archive's pickles are not wanted."""
    parts = name.split("/")
    if len(parts) < 2 or parts[-2] not in _P5_SPLITS or parts[-1] not in P5_FILES:
        return None
    return "/".join(parts[-2:])
