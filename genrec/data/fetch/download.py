"""Fetch files over https and unpack archives, trusting neither."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from genrec.atomic import write_json_atomic
from genrec.errors import DataError
from genrec.version import __version__

__all__ = ["check_digest", "fetch"]

_BLOCK_BYTES = 1 << 20
_ALGORITHMS = ("sha256", "md5")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: What a fetch may run into on the way, and try again after.
_BROKEN = (OSError, http.client.HTTPException)


def fetch(
    url: str,
    destination: str | os.PathLike[str],
    *,
    checksum: str | None = None,
    attempts: int = 5,
    timeout_s: float = 30.0,
    wait_s: float = 1.0,
) -> Path:
    """Fetch a file; a fetch that was cut off goes on where it stopped.

    The content comes into ``<destination>.part`` and takes its name only when it is complete
    and its checksum right, so that a file of that name can be trusted.

    Args:
        url: Address; https, or http of this very machine.
        destination: Where to put the file. One that is there already is checked and kept.
        checksum: ``"sha256:<hex>"`` or ``"md5:<hex>"``; None checks the length only.
        attempts: How often to try, >= 1.
        timeout_s: Seconds without a byte after which a connection counts as broken.
        wait_s: Seconds before the second attempt; doubles with each further one.

    Returns:
        The destination.

    Raises:
        DataError: If the address is not safe, nothing can be fetched, or the checksum is wrong.
    """
    target = Path(destination)
    _check_address(url)
    if target.is_file():
        check_digest(target, checksum)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    note = target.with_name(f"{target.name}.part.json")
    reason = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(min(wait_s * 2 ** (attempt - 1), 30.0))
        try:
            _fetch_rest(url, part, note, target.name, timeout_s)
            break
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416:  # the part is longer than the file: start again
                part.unlink(missing_ok=True)
            if error.code < 500 and error.code not in (408, 416, 429):
                raise DataError(_by_hand(url, target, reason)) from None
        except _BROKEN as error:
            cause = getattr(error, "reason", error)
            reason = str(cause) or type(error).__name__
            if isinstance(cause, socket.gaierror):  # no network: trying again is no use
                raise DataError(_by_hand(url, target, reason)) from None
    else:
        raise DataError(_by_hand(url, target, reason))
    try:
        check_digest(part, checksum)
    except DataError:
        part.unlink()
        note.unlink(missing_ok=True)
        raise
    os.replace(part, target)
    note.unlink(missing_ok=True)
    return target


def check_digest(path: Path, checksum: str | None) -> None:
    """Compare a file with ``"sha256:<hex>"`` or ``"md5:<hex>"``; a DataError if it differs."""
    if checksum is None:
        return
    algorithm, _, expected = checksum.partition(":")
    assert algorithm in _ALGORITHMS, checksum
    digest = hashlib.new(algorithm, usedforsecurity=algorithm == "sha256")
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != expected.lower():
        raise DataError(
            f"{path.name.removesuffix('.part')} must have {algorithm} {expected}, got "
            f"{digest.hexdigest()}; delete {path} if it is there, and fetch it again"
        )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to an address that would not have been taken at first."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    raise DataError(
        f"address must be https, got {url}; fetch the file by hand if you trust the address"
    )


def _fetch_rest(url: str, part: Path, note: Path, name: str, timeout_s: float) -> None:
    """Fetch what is missing of the part file; raise where the connection breaks."""
    have = part.stat().st_size if part.is_file() else 0
    version = _read_note(note, url)
    headers = {"User-Agent": f"genrec/{__version__}", "Accept-Encoding": "identity"}
    if have and version:
        # The rest of another version of the file would not fit: the server then sends all of it.
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    opener = urllib.request.build_opener(_SafeRedirects)
    request = urllib.request.Request(url, headers=headers)
    with opener.open(request, timeout=timeout_s) as answer:
        goes_on = answer.status == 206 and _starts_at(answer.headers, have)
        if answer.status == 206 and not goes_on:
            part.unlink(missing_ok=True)
            raise OSError("the server answered with another range than it was asked for")
        have = have if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        _check_space(part, total, have)
        # A weak validator does not promise the same bytes, so it is no ground to go on.
        etag = answer.headers.get("ETag", "")
        version = etag if etag.startswith('"') else answer.headers.get("Last-Modified")
        write_json_atomic(note, {"url": url, "version": version})
        with part.open("ab" if goes_on else "wb") as file, _bar(name, total, have) as bar:
            while block := answer.read(_BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
                have += len(block)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def _read_note(note: Path, url: str) -> str | None:
    """Read which version of the file the part is of."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("url") != url:
        return None
    version = content.get("version")
    return version if isinstance(version, str) else None


def _starts_at(headers: Any, position: int) -> bool:
    return str(headers.get("Content-Range", "")).startswith(f"bytes {position}-")


def _check_space(part: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise DataError(
            f"disk must have {(total - have) >> 20} MiB free for {part.name}, got {free >> 20} MiB "
            f"in {part.parent}; make room or choose another folder"
        )


@contextmanager
def _bar(name: str, total: int | None, have: int) -> Iterator[Any]:
    with tqdm(
        total=total,
        initial=have,
        desc=name,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not sys.stderr.isatty(),
    ) as bar:
        yield bar


def _by_hand(url: str, target: Path, reason: str) -> str:
    return (
        f"file must be fetched from {url}, got {reason or 'no answer'}; without a network fetch it "
        f"elsewhere, put it at {target} and run again"
    )
