"""Faults of disk, files and settings: each must end in one line and status 2."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from soaking.child import Done, Limits, run
from soaking.shop import Shop

__all__ = ["Faults", "fault_all", "faults"]

_DEEP = "[" * 100_000 + "]" * 100_000
_SETTINGS = [
    "log_every=0",
    "iterations=1e30",
    "iterations='a'",
    "iterations=[",
    "iterations=%nothing",
    "epochs=1e300",
    "seed=-1",
    "batch_size=None",
    "batch_size=1e30",
    "learning_rate=nan",
    "vae_hidden_dims=[[]]",
    "amp=1",
    "dataset=@train()",
]


@dataclass
class Faults:
    """What came of the faults.

    Attributes:
        faults: How many.
        ok: Those that ended as they should.
        failures: The others, in words.
    """

    faults: int = 0
    ok: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fault:
    """A command that cannot do what it shall.

    Attributes:
        name: What is wrong.
        words: Of the command; ``{}`` is its folder.
        prepare: Makes it wrong, in its folder, or does nothing.
        limits: How the process is hindered.
        wanted: Text that must be in the one line; where ``status`` is 0, in the output.
        status: Exit status that is right.
    """

    name: str
    words: list[str]
    prepare: Callable[[Path], object] = lambda folder: None
    limits: Limits = field(default_factory=Limits)
    wanted: str = ""
    status: int = 2

    def holds(self, done: Done) -> bool:
        """Tell whether it ended as it should."""
        if self.status == 0:
            return done.status == 0 and self.wanted in done.output
        return done.is_one_line and self.wanted in done.errors


def fault_all(shop: Shop, count: int | None, *, say: Callable[[str], None]) -> Faults:
    """Try the faults, or ``count`` of them, evenly spread."""
    every = list(faults(shop))
    step = 1 if count is None else max(1, len(every) // max(1, count))
    result = Faults()
    for fault in every[::step]:
        folder = shop.path / "faults"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        fault.prepare(folder)
        done = run([word.replace("{}", str(folder)) for word in fault.words], folder,
                   limits=fault.limits)  # fmt: skip
        result.faults += 1
        if fault.holds(done):
            result.ok += 1
        else:
            result.failures.append(f"{fault.name}: {done.status}, {done.errors[-300:]!r}")
    say(f"faults: {result.faults}, of them as they should be {result.ok}")
    return result


def faults(shop: Shop) -> Iterator[Fault]:
    """List the faults."""
    yield from _of_disks(shop)
    yield from _of_runs(shop)
    yield from _of_tables(shop)
    yield from _of_settings(shop)


def _of_disks(shop: Shop) -> Iterator[Fault]:
    """A full disk and a folder that may only be read, for each command that writes."""
    commands = {
        "prepare": shop.prepare(Path("{}/out")),
        "train rqvae": shop.train_rqvae(Path("{}/out")),
        "train decoder": shop.train_decoder(Path("{}/out")),
        "sample": ["sample", "{}/out"],
        "tokenize": ["tokenize", str(shop.rqvae), "--policy", "dedup_token", "--out", "{}/out"],
        "recommend": ["recommend", str(shop.decoder), "--out", "{}/out.parquet"],
    }
    for name, words in commands.items():
        yield Fault(f"{name}: full disk", words, limits=Limits(file_bytes=300))
        yield Fault(
            f"{name}: read-only folder",
            words,
            prepare=lambda folder: folder.chmod(0o555),
            limits=Limits(as_nobody=True),
        )
        yield Fault(f"{name}: a file where the folder should be", [
            word.replace("{}/", "{}/file/") for word in words
        ], prepare=lambda folder: (folder / "file").write_text("x"))  # fmt: skip


def _of_runs(shop: Shop) -> Iterator[Fault]:
    """Damaged files of runs, tables and prepared sets."""

    def damaged(source: Path, name: str, content: bytes | None) -> Callable[[Path], object]:
        def prepare(folder: Path) -> None:
            shutil.copytree(source, folder / "x")
            for file in (folder / "x").glob(name):
                file.unlink() if content is None else file.write_bytes(content)

        return prepare

    readers = {
        "best": (["recommend", "{}/x"], shop.decoder),
        "*/config.json": (["recommend", "{}/x"], shop.decoder),
        "*/model.safetensors": (["recommend", "{}/x"], shop.decoder),
        "catalogue/meta.json": (["recommend", "{}/x"], shop.decoder),
        "catalogue/item_keys.npy": (["recommend", "{}/x"], shop.decoder),
        "semantic_ids/ids.npy": (["recommend", "{}/x"], shop.decoder),
        "meta.json": (["recommend", "{}/x"], shop.decoder),
        "*/trainer.pt": (shop.train_rqvae(Path("{}/x"), iterations=14, resume_changed=True),
                         shop.rqvae),
        "*/config.json ": (["diagnose", "{}/x"], shop.rqvae),
        "semantic_ids/meta.json": (["diagnose", "{}/x"], shop.rqvae),
        "*/files.json": (["tokenize", "{}/x", "--policy", "dedup_token"], shop.rqvae),
        "item_embeddings.npy": (["tokenize", str(shop.rqvae), "--out", "{}/t", "--data", "{}/x"],
                                shop.data),
        "user_keys.offsets.npy": (["recommend", str(shop.decoder), "--data", "{}/x"], shop.data),
    }  # fmt: skip
    for name, (words, source) in readers.items():
        for what, content in (
            ("empty", b""),
            ("zeros", bytes(200)),
            ("a list", b"[1, 2]"),
            ("text", b'{"a": \xff'),
            ("npz", b"PK\x03\x04" + bytes(50)),
        ):
            bad = damaged(source, name.strip(), content)
            yield Fault(f"{name.strip()} {what}", words, bad)
    lines = (shop.rqvae / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    for what, line in (("cut", b'{"st'), ("a list", b"[1]\n"), ("binary", b"\xff\xfe\n")):
        content = b"".join([*lines[:4], line, *lines[4:]])
        yield Fault(f"metrics.jsonl {what}", ["diagnose", "{}/x"],
                    damaged(shop.rqvae, "metrics.jsonl", content), status=0)  # fmt: skip
    yield Fault("latest names nothing", shop.train_rqvae(Path("{}/x")),
                damaged(shop.rqvae, "latest", b"../../etc"), status=0,
                wanted="has lost its latest")  # fmt: skip


def _of_tables(shop: Shop) -> Iterator[Fault]:
    """Sources with a bad line, which is left out, and bad sources, which are one line."""
    items = (shop.tables / "items.csv").read_bytes()
    rows = (shop.tables / "interactions.csv").read_text().splitlines()[1:]
    good = [
        json.dumps(dict(zip(("user_id", "item_id", "timestamp"), row.split(","), strict=True)))
        for row in rows
    ]

    def tables(log: bytes, name: str = "log.jsonl") -> Callable[[Path], object]:
        def prepare(folder: Path) -> None:
            (folder / "items.csv").write_bytes(items)
            (folder / name).write_bytes(log)

        return prepare

    def words(name: str = "log.jsonl", *more: str) -> list[str]:
        files = ["--items", "items.csv", "--interactions", name, "--out", "{}/out"]
        return ["prepare", "{}", *files, "--encoder", "tfidf:8", *more]

    bad_lines = {
        "a list for a key": '{"user_id": ["u1"], "item_id": "i01", "timestamp": 1}',
        "a time of 1e307": '{"user_id": "u1", "item_id": "i01", "timestamp": 1e307}',
        "half a letter": '{"user_id": "\\ud800", "item_id": "i01", "timestamp": 1}',
        "deeply nested": f'{{"user_id": {_DEEP}}}',
    }
    for name, line in bad_lines.items():
        log = "\n".join([*good[:9], line, *good[9:]]).encode()
        yield Fault(f"a log with {name}", words(), tables(log), status=0)
    csv = "\n".join(["user_id,item_id,timestamp", *rows]).encode()
    packed = gzip.compress(csv)
    for name, content in (("cut", packed[:-9]), ("bent", packed[:40] + b"xxxx" + packed[44:])):
        yield Fault(f"a gzip that is {name}", words("log.csv.gz"), tables(content, "log.csv.gz"))
    for name, content in (("no Parquet", csv), ("a cut Parquet", b"PAR1" + bytes(40))):
        yield Fault(name, words("log.parquet"), tables(content, "log.parquet"))
    for option, value in (("--encoding", "foo"), ("--separator", ""), ("--separator", '"')):
        yield Fault(f"{option} {value!r}", words("log.csv", option, value), tables(csv, "log.csv"),
                    wanted="must be one")  # fmt: skip

    def archive(folder: Path) -> None:
        tables(csv, "log.csv")(folder)
        with (folder / "v.npy").open("wb") as file:
            np.savez(file, a=np.zeros(3))

    yield Fault("an .npz named .npy", ["prepare", "{}", "--items", "items.csv", "--interactions",
                "log.csv", "--out", "{}/out", "--encoder", "{}/v.npy"], archive)  # fmt: skip


def _of_settings(shop: Shop) -> Iterator[Fault]:
    """Settings of wrong types and sizes."""
    for value in _SETTINGS:
        words = [*shop.train_rqvae(Path("{}/out")), "--gin", f"train.{value}"]
        yield Fault(f"train.{value}", words)
