"""Settings: each described once, at the field of a dataclass, and checked when it is made.

Groups of settings are composed by inheritance: what a stage can be told is one flat class whose
fields are the names of the gin root ``train``, the rows of ``genrec settings`` and what
``meta.json`` records. The library under it takes the groups and never sees gin.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from genrec.errors import ConfigError, did_you_mean

__all__ = ["Settings", "again", "describe", "setting"]

S = TypeVar("S", bound="Settings")


def setting(
    meaning: str,
    default: Any = dataclasses.MISSING,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    when: Mapping[str, Sequence[Any]] | None = None,
    outside: bool = False,
) -> Any:
    """Declare a setting: the field of a dataclass with all that is to be known of it.

    Args:
        meaning: One sentence for people; shown by ``genrec settings``.
        default: Its value where none is given; left out, one must be given.
        least: Smallest number allowed, in sequences for each entry.
        most: Largest number allowed, likewise.
        above: Every allowed number is larger.
        below: Every allowed number is smaller.
        choices: Texts allowed; others are answered with the near ones.
        when: Names of other settings and the values with which this one has an effect.
        outside: Whether it only says where a run lies and how it is watched and kept, so that
            weights and metrics do not depend on it.

    Returns:
        A dataclass field.
    """
    rules = {"least": least, "most": most, "above": above, "below": below}
    metadata = {
        "meaning": meaning,
        "rules": {name: bound for name, bound in rules.items() if bound is not None},
        "choices": tuple(choices),
        "when": dict(when or {}),
        "outside": outside,
    }
    return dataclasses.field(default=default, metadata=metadata)


_NO_NUMBER = 2**63  # no count is as large; tensors and seeds hold none that is
_STARTING = ("resume", "resume_changed", "overwrite")
_SAME = object()


def again(base: type[Settings], name: str, default: Any = _SAME) -> Any:
    """Declare a setting of another group once more: under another name, or with another default.

    Args:
        base: A class that has the setting.
        name: Its name there.
        default: The default here; the same as there when left out.

    Returns:
        A dataclass field with the description that the setting has there.
    """
    known = base.__dataclass_fields__[name]
    return dataclasses.field(
        default=known.default if default is _SAME else default, metadata=known.metadata
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings: checks types, ranges and choices from the fields' descriptions."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for known in fields(self):
            value = _coerce(known.name, getattr(self, known.name), hints[known.name])
            _check(known, value)
            object.__setattr__(self, known.name, value)

    def without_effect(self) -> list[str]:
        """Name the settings that differ from their default and do nothing beside the others."""
        return [
            known.name
            for known in fields(self)
            if getattr(self, known.name) != known.default
            and not all(
                getattr(self, other) in values for other, values in known.metadata["when"].items()
            )
        ]

    def warn_without_effect(self) -> None:
        """Warn of :meth:`without_effect`, each by its name."""
        if idle := self.without_effect():
            warnings.warn(
                f"settings without effect beside the others given: {', '.join(idle)}", stacklevel=2
            )

    def part(self, group: type[S]) -> S:
        """Take the settings of one of the groups that this class is composed of."""
        return group(**{known.name: getattr(self, known.name) for known in fields(group)})

    @classmethod
    def outside(cls) -> set[str]:
        """Name the settings that weights and metrics do not depend on."""
        return {known.name for known in fields(cls) if known.metadata["outside"]}

    def as_dict(self) -> dict[str, Any]:
        """Return all settings as JSON values."""
        return {known.name: _jsonable(getattr(self, known.name)) for known in fields(self)}

    def as_gin(self) -> str:
        """Write the settings as a gin file that gives them back, defaults included.

        How the run was started, ``resume`` and the like, is left out.
        """
        shown = {k: v for k, v in self.as_dict().items() if k not in _STARTING}
        return "".join(f"train.{name} = {value!r}\n" for name, value in shown.items())


def describe(settings: type[Settings]) -> list[tuple[str, str, str]]:
    """List the settings of a stage for people.

    Args:
        settings: The stage's class.

    Returns:
        Name, default and meaning of each, in the order of declaration.
    """
    rows = []
    for known in fields(settings):
        given = known.default is not dataclasses.MISSING
        choices = known.metadata["choices"]
        meaning = known.metadata["meaning"] + (f" ({', '.join(choices)})" if choices else "")
        rows.append((known.name, _shown(known.default) if given else "required", meaning))
    return rows


def _shown(value: Any) -> str:
    """Write a value as a gin file does."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return repr(value)


def _jsonable(value: Any) -> Any:
    """Turn a setting into what JSON can hold."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {name: _jsonable(v) for name, v in value.items()}
    return [_jsonable(v) for v in value] if isinstance(value, tuple) else value


def _check(known: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a value out of range or not among the choices."""
    name, choices = known.name, known.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(f"{name} must be known, got {value!r}; {did_you_mean(value, choices)}")
    words = {"least": ">=", "most": "<=", "above": ">", "below": "<"}
    holds = {
        "least": lambda number, bound: number >= bound,
        "most": lambda number, bound: number <= bound,
        "above": lambda number, bound: number > bound,
        "below": lambda number, bound: number < bound,
    }
    rules = known.metadata["rules"]
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, str | None | enum.Enum | Mapping):
            continue
        # Phrased so that NaN, which compares to nothing, is refused as well.
        if not all(holds[rule](number, bound) for rule, bound in rules.items()):
            wanted = " and ".join(f"{words[rule]} {bound:g}" for rule, bound in rules.items())
            raise ConfigError(f"{name} must be {wanted}, got {number}; {_hint(known)}")
        if number == math.inf or number == -math.inf:
            raise ConfigError(f"{name} must be finite, got {number}; {_hint(known)}")


def _hint(known: dataclasses.Field[Any]) -> str:
    """Offer the default."""
    given = known.default is not dataclasses.MISSING
    return f"the default is {_shown(known.default)}" if given else "choose one in that range"


def _coerce(name: str, value: Any, wanted: Any) -> Any:
    """Bring a value to its declared type where nothing is lost, or refuse it."""
    options = typing.get_args(wanted) if _is_union(wanted) else (wanted,)
    for option in options:
        fits, converted = _fit(value, option)
        if fits:
            return converted
    example = next((e for o in options if (e := _example(o))), "another value")
    raise ConfigError(
        f"{name} must be {' or '.join(map(_phrase, options))}, got {_short(value)}; for "
        f"example {name}={example}"
    )


def _short(value: Any) -> str:
    """Show a value that is wrong, however long it is."""
    try:
        shown = repr(value)
    except (RecursionError, ValueError):  # an integer of thousands of digits, or a knot of lists
        return f"{type(value).__name__} too long to be shown"
    return shown if len(shown) <= 100 else f"{shown[:97]}..."


def _is_union(wanted: Any) -> bool:
    return typing.get_origin(wanted) in (typing.Union, types.UnionType)


def _fit(value: Any, wanted: Any) -> tuple[bool, Any]:
    """Tell whether a value is of a type, and convert it: whole numbers, lists, enum names."""
    if wanted is Any:
        return True, value
    if typing.get_origin(wanted) is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return False, value
        inner = typing.get_args(wanted)
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            return False, value
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        found = [_fit(entry, kind) for entry, kind in zip(value, kinds, strict=True)]
        return all(fits for fits, _ in found), tuple(entry for _, entry in found)
    if typing.get_origin(wanted) is dict:
        if not isinstance(value, Mapping):
            return False, value
        pairs = [(name, _fit(entry, typing.get_args(wanted)[1])) for name, entry in value.items()]
        fits = all(isinstance(name, str) and entry[0] for name, entry in pairs)
        return fits, {name: entry for name, (_, entry) in pairs}
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        if isinstance(value, str) and value in wanted.__members__:
            return True, wanted[value]
        return isinstance(value, wanted), value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if wanted is int and (isinstance(value, bool) or not isinstance(value, int)):
        return False, value
    if wanted is int and abs(value) >= _NO_NUMBER:
        return False, value
    return wanted is type(value) or (isinstance(wanted, type) and isinstance(value, wanted)), value


_PHRASES = {
    Any: "any value",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
}
_EXAMPLES = {int: "1", float: "0.1", bool: "True", str: "'text'"}


def _phrase(wanted: Any) -> str:
    """Say in words what a type holds."""
    if wanted is type(None):
        return "None"
    if typing.get_origin(wanted) is tuple:
        inner = typing.get_args(wanted)
        many = "a list" if inner[-1] is Ellipsis else f"a list of {len(inner)}"
        return f"{many} of entries that are {_phrase(inner[0])}"
    if typing.get_origin(wanted) is dict:
        return f"a dictionary of names, each with {_phrase(typing.get_args(wanted)[1])}"
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return f"one of {', '.join(wanted.__members__)}"
    return _PHRASES.get(wanted, str(wanted))


def _example(wanted: Any) -> str | None:
    """Give a value of a type as a gin file writes it."""
    if typing.get_origin(wanted) is tuple:
        inner = typing.get_args(wanted)
        entry = _example(inner[0])
        count = 2 if inner[-1] is Ellipsis else len(inner)
        return None if entry is None else f"[{', '.join([entry] * count)}]"
    if typing.get_origin(wanted) is dict:
        return f"{{'name': {_example(typing.get_args(wanted)[1])}}}"
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return repr(next(iter(wanted.__members__)))
    return _EXAMPLES.get(wanted)
