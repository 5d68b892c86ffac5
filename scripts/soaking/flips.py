"""Flip single bits of artefacts: each is refused in one line, or changes nothing that is read."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec.errors import GenRecError
from soaking.artefacts import artefacts, plain
from soaking.shop import Shop

__all__ = ["Flips", "flip_all"]

#: What does not belong to what is read: a log, results for people, the lock.
_NOT_READ = (".lock", ".lock.owner", "metrics.jsonl", "metrics.json", "config.gin")


@dataclass
class Flips:
    """What came of the flips.

    Attributes:
        flips: How many bits were flipped, one at a time.
        refused: Those that were refused.
        failures: Those that changed what is read, or ended otherwise, in words.
    """

    flips: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


def flip_all(shop: Shop, count: int, *, seed: int, say: Callable[[str], None]) -> Flips:
    """Flip bits, as many in each artefact, and files of one by their turn."""
    result, draw = Flips(), random.Random(seed)
    known = artefacts(shop)
    for place, (name, (source, opener)) in enumerate(known.items()):
        target = shop.path / "flips" / source.name
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        before = _read(opener, target)
        files = [target] if target.is_file() else sorted(
            p for p in target.rglob("*") if p.is_file() and p.name not in _NOT_READ)  # fmt: skip
        share = count * (place + 1) // len(known) - count * place // len(known)
        for number in range(share):
            file = files[number % len(files)]
            whole = file.read_bytes()
            bit = draw.randrange(8 * len(whole))
            bent = bytearray(whole)
            bent[bit // 8] ^= 1 << bit % 8
            file.write_bytes(bent)
            result.flips += 1
            try:
                if _read(opener, target) != before:
                    result.failures.append(f"{name}: bit {bit} of {file.name} changed the result")
            except GenRecError:
                result.refused += 1
            except Exception as error:
                result.failures.append(f"{name}: bit {bit} of {file.name}: {error!r:.200}")
            file.write_bytes(whole)
    say(f"flips: {result.flips}, refused {result.refused}, silent {len(result.failures)}")
    return result


def _read(opener: Callable[[Path], Any], path: Path) -> Any:
    return plain(opener(path))
