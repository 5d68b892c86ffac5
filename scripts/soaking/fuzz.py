"""Feed damaged inputs to whatever reads any: each gives a result or one line, in bounded time.

A reader is a :class:`Reader` of :func:`readers`: it writes an input that is damaged by a draw and
reads it. To fuzz something else, add one there.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec.errors import GenRecError
from soaking.shop import Shop

__all__ = ["Fuzz", "Reader", "bend", "fuzz_all"]

_LONGEST_S = 30
_TURNS = 10
_TOKENS = (
    *rb"\n \r \t \0 \ud800 , : :: | - -1 1e999 NaN null true @ % () { } [ ] ' \"".split(),
    *(b"\n", b"\r", b"\t", b"\0", b" ", b'"', b"\\", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"\xe2\x80\xae", b"9" * 30, b"[" * 300, b"0x" + b"f" * 5000),
)


@dataclass
class Fuzz:
    """What came of the inputs.

    Attributes:
        inputs: How many.
        results: Those that gave a result; the others were refused in one line.
        failures: Those that ended otherwise, or took too long, with what repeats them.
    """

    inputs: int = 0
    results: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reader:
    """Something that reads.

    Attributes:
        name: For people.
        read: Takes a draw and an empty folder, damages an input and reads it.
        share: How many of all inputs it gets.
    """

    name: str
    read: Callable[[random.Random, Path], object]
    share: float = 1.0


def bend(content: bytes, draw: random.Random) -> bytes:
    """Damage some bytes: flip, cut, drop, repeat, move, or put something odd in."""
    bent = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if not bent:
            break
        at = draw.randrange(len(bent))
        until = min(len(bent), at + draw.choice((1, 2, 8, 64)))
        kind = draw.randrange(7)
        if kind == 0:
            bent[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            bent[at] = draw.randrange(256)
        elif kind == 2:
            del bent[at:until]
        elif kind == 3:
            bent[at:at] = bent[at:until] * draw.choice((1, 3))
        elif kind == 4:
            bent[at:at] = draw.choice(_TOKENS)
        elif kind == 5:
            bent[at:until] = draw.choice(_TOKENS)
        else:
            del bent[at:]
    return bytes(bent)


def fuzz_all(
    shop: Shop, count: int, *, seed: int, seconds: float, say: Callable[[str], None]
) -> Fuzz:
    """Feed all readers.

    Args:
        shop: Built; its files are what is damaged.
        count: Inputs in all.
        seed: Every input follows from it and from its number.
        seconds: Most time for all.
        say: Told of each reader.

    Returns:
        What came of them.
    """
    from soaking.readers import readers

    result, until = Fuzz(), time.monotonic() + seconds
    known = readers(shop)
    parts = sum(reader.share for reader in known)
    folder = shop.path / "fuzz"
    signal.signal(signal.SIGALRM, _took_too_long)
    counts = [max(1, round(count * reader.share / parts)) for reader in known]
    for turn in range(_TURNS):  # so that a bound in time leaves no reader out
        for reader, inputs in zip(known, counts, strict=True):
            for number in range(inputs * turn // _TURNS, inputs * (turn + 1) // _TURNS):
                if time.monotonic() > until:
                    break
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                result.inputs += 1
                draw = random.Random(f"{seed} {reader.name} {number}")
                failure = _feed(reader, draw, folder, result)
                if failure is not None:
                    result.failures.append(f"{reader.name} {number}: {failure}")
                    say(f"fuzz: {result.failures[-1]}")
        say(f"fuzz: {result.inputs} inputs so far, {len(result.failures)} failed")
    return result


def _feed(reader: Reader, draw: random.Random, folder: Path, result: Fuzz) -> str | None:
    signal.alarm(_LONGEST_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            reader.read(draw, folder)
        result.results += 1
    except GenRecError as error:
        return None if str(error).strip() else "an empty message"
    except BaseException as error:
        return f"{error!r:.240}"
    finally:
        signal.alarm(0)
    return None


def _took_too_long(*_: Any) -> None:
    raise TimeoutError(f"took longer than {_LONGEST_S} s")
