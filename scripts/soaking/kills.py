"""Kill commands at named points and random moments, repeat them, and compare with unbroken ones."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from soaking.child import Limits, run
from soaking.shop import Shop

__all__ = ["Kills", "kill_all"]

_VOLATILE = re.compile(r"_per_s|seconds|^command$|^seal$|^files$|^save_dir_root$|^path$|threads")
#: What each command does: how it is called, and what must lie in its folder before.
_CALLS = Path(__file__).with_name("recommend_all.py")


@dataclass(frozen=True)
class Case:
    """A command that may be killed.

    Attributes:
        name: Of the command.
        words: Its words, given the folder that it writes.
        share: How many of all kills it gets.
        before: A folder that is copied there first, or None.
        call: A Python file in place of ``genrec``.
    """

    name: str
    words: Callable[[Path], list[str]]
    share: float
    before: Path | None = None
    call: str | None = None


@dataclass
class Kills:
    """What came of the kills.

    Attributes:
        kills: Processes that were killed.
        ok: Those whose repetition left what an unbroken run leaves.
        failures: The others, in words.
    """

    kills: int = 0
    ok: int = 0
    failures: list[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.failures = self.failures or []


def kill_all(shop: Shop, count: int, *, seed: int, say: Callable[[str], None]) -> Kills:
    """Kill every command some times, half of them at changes of the disk, half at any moment.

    Args:
        shop: Built.
        count: Kills in all.
        seed: Of the points and moments.
        say: Told of each command.

    Returns:
        What came of them.
    """
    cases = [
        Case("train rqvae", shop.train_rqvae, 0.3),
        Case("train decoder", shop.train_decoder, 0.3),
        Case("prepare", shop.prepare, 0.16),
        Case("tokenize", lambda out: ["tokenize", str(out), "--policy", "dedup_token"], 0.12,
             before=shop.rqvae),
        Case("recommend", lambda out: [str(shop.decoder), str(out)], 0.12, call=str(_CALLS)),
    ]  # fmt: skip
    result = Kills()
    for case in cases:
        _kill_case(case, shop, max(1, round(case.share * count)), random.Random(seed), result)
        say(f"{case.name}: {result.kills} kills so far, {result.ok} as if unbroken")
    return result


def _kill_case(case: Case, shop: Shop, count: int, draw: random.Random, result: Kills) -> None:
    whole = _fresh(case, shop, "whole")
    done = run(case.words(whole / "out"), whole, call=case.call)
    if done.status != 0:
        raise SystemExit(f"{case.name} must run, got {done.status}: {done.errors}")
    expected = contents(whole / "out")
    points = draw.sample(range(1, done.changes + 1), min(count - count // 2, done.changes))
    wanted, tries = result.kills + count, 0
    while result.kills < wanted and tries < 3 * count:  # a moment may come after the end
        moment = draw.uniform(0.05, 0.9) * done.seconds
        point = points[tries] if tries < len(points) else None
        limit = Limits(kill_at=point, kill_after_s=None if point else moment)
        tries += 1
        broken = _fresh(case, shop, "broken")
        killed = run(case.words(broken / "out"), broken, limits=limit, call=case.call)
        if killed.status != -signal.SIGKILL:
            continue
        result.kills += 1
        again = run(case.words(broken / "out"), broken, call=case.call)
        different = compare(expected, contents(broken / "out")) if again.status == 0 else ["status"]
        if not different:
            result.ok += 1
        else:
            at = limit.kill_at or f"{limit.kill_after_s:.2f} s"
            result.failures.append(
                f"{case.name} killed at {at}: {', '.join(different[:4])} {again.errors[-200:]}"
            )


def _fresh(case: Case, shop: Shop, name: str) -> Path:
    """Make the folder that a command starts in."""
    folder = shop.path / "kills" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case.before is not None:
        shutil.copytree(case.before, folder / "out")
    return folder


def contents(path: Path) -> dict[str, Any]:
    """Read a folder, or a file, into what must be the same, speeds and the like left out."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    found: dict[str, Any] = {}
    for file in files:
        name = file.relative_to(path).as_posix()
        if file.name in (".lock", ".lock.owner"):
            continue
        if file.suffix == ".json":
            found[name] = _steady(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            found[name] = [_steady(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.suffix == ".pt":
            found[name] = _steady(torch.load(file, weights_only=True))
        elif file.name == "config.gin":
            found[name] = re.sub(r".*save_dir_root.*\n", "", file.read_text())
        else:
            found[name] = file.read_bytes()
    return found


def _steady(value: Any) -> Any:
    """Leave out what differs from run to run."""
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if not _VOLATILE.search(str(k))}
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return [_steady(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def compare(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Name the files that differ."""
    return sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
