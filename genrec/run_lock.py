"""The lock of a run's folder: one training at a time writes into it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from genrec.atomic import atomic_file
from genrec.errors import ConfigError

__all__ = ["RunLock"]


_MOMENT_S = 0.5


class RunLock:
    """Held by the training that writes into a run's folder.

    The system lets go of it when its owner dies, however that happens, so that no stale lock
    stays. Its two files do: deleting a lock file would let two owners hold one name.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._lock = FileLock(self.folder / ".lock")

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.is_locked

    def acquire(self) -> None:
        """Take the lock, unless it is held already; the folder must exist.

        Raises:
            ConfigError: If another process, or another run of this one, has it.
            OSError: If the folder cannot be written.
        """
        if self.held:
            return
        try:
            # `genrec runs` holds it for a moment, to see whether it is free.
            self._lock.acquire(timeout=_MOMENT_S)
        except Timeout:
            raise ConfigError(
                f"run folder must be free, got {self.folder} in which {self._owner()} trains; "
                "wait for it, stop it, or set another train.save_dir_root"
            ) from None
        with atomic_file(self._note) as temporary:
            temporary.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")

    def release(self) -> None:
        """Let go of the lock."""
        self._lock.release()

    @property
    def _note(self) -> Path:
        return self.folder / ".lock.owner"

    def _owner(self) -> str:
        """Say who has the lock, in words."""
        try:
            return self._note.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return "another process"
