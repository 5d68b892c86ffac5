"""Settings check themselves: types, ranges, choices; and say what has no effect."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

import gin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.config import configure
from genrec.errors import ConfigError
from genrec.settings import Settings, again, describe, setting
from genrec.training.decoder import DecoderSettings
from genrec.training.rqvae import RqVaeSettings
from genrec.training.sasrec import SasRecSettings

STAGES = (RqVaeSettings, DecoderSettings, SasRecSettings)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True, kw_only=True)
class Base(Settings):
    size: int = setting("Things", 3, least=1)
    rate: float | None = setting("Speed", 0.5, above=0, most=1)


@dataclass(frozen=True, kw_only=True)
class Whole(Base):
    rate: float | None = again(Base, "rate", 0.25)
    width: int = again(Base, "size")
    name: str = setting("Kind", "plain", choices=("plain", "fancy"))
    glitter: float = setting("Shine", 1.0, when={"name": ("fancy",)})
    colours: Colour | tuple[Colour, ...] = setting("Look", Colour.RED)
    pair: tuple[float, float] = setting("Two", (0.0, 1.0), least=0)
    flag: bool = setting("Switch", False)
    shelves: dict[str, tuple[float, ...]] | None = setting("Names and numbers", None)


def test_what_loses_nothing_is_converted():
    made = Whole(size=4.0, rate=1, colours=["RED", Colour.BLUE], pair=[1, 2])
    assert (made.size, type(made.size)) == (4, int)
    assert (made.rate, type(made.rate)) == (1.0, float)
    assert made.colours == (Colour.RED, Colour.BLUE)
    assert made.pair == (1.0, 2.0)
    shelves = Whole(shelves={"a": [1, 0.5]})
    assert shelves.shelves == {"a": (1.0, 0.5)}
    assert shelves.as_dict()["shelves"] == {"a": [1.0, 0.5]}
    assert Whole(colours="BLUE").colours is Colour.BLUE
    assert Whole().rate == 0.25
    assert made.part(Base) == Base(size=4, rate=1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size must be >= 1, got 0; the default is 3"),
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"size": "abc"}, "size must be a whole number, got 'abc'; for example size=1"),
        ({"size": 1.5}, "size must be a whole number, got 1.5"),
        ({"size": True}, "size must be a whole number, got True"),
        ({"size": 1e30}, r"size must be a whole number, got 1e\+30"),
        ({"size": 10**400}, r"size must be a whole number, got 10{96}\.\.\.; for"),
        ({"size": 10**5000}, "size must be a whole number, got int too long to be shown"),
        ({"size": float("inf")}, "size must be a whole number, got inf"),
        ({"rate": 1.5}, "rate must be <= 1 and > 0, got 1.5"),
        ({"rate": float("nan")}, "rate must be <= 1 and > 0, got nan"),
        ({"rate": "x"}, "rate must be a number or None, got 'x'"),
        ({"name": "fanc"}, r"name must be known, got 'fanc'; did you mean fancy\?"),
        ({"colours": "GREEN"}, "colours must be one of RED, BLUE or a list of entries that are"),
        ({"colours": 3}, "colours must be one of RED, BLUE"),
        ({"pair": (1,)}, "pair must be a list of 2 of entries that are a number, got"),
        ({"pair": (1, -1)}, "pair must be >= 0, got -1"),
        ({"shelves": ["a"]}, "shelves must be a dictionary of names, each with a list of entries"),
        ({"shelves": {1: [1.0]}}, "shelves must be a dictionary of names"),
        (
            {"shelves": {"a": "x"}},
            r"got \{'a': 'x'\}; for example shelves=\{'name': \[0\.1, 0\.1\]\}",
        ),
        ({"flag": 1}, "flag must be True or False, got 1; for example flag=True"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as raised:
        Whole(**values)
    assert "\n" not in str(raised.value)


def test_settings_without_effect_are_named():
    assert Whole(glitter=2.0).without_effect() == ["glitter"]
    assert Whole(glitter=2.0, name="fancy").without_effect() == []
    with pytest.warns(UserWarning, match="without effect beside the others given: glitter"):
        Whole(glitter=2.0).warn_without_effect()


def test_a_description_is_inherited():
    described = {name: (default, meaning) for name, default, meaning in describe(Whole)}
    assert described["rate"] == ("0.25", "Speed")
    assert described["width"] == ("3", "Things")
    assert described["name"] == ("'plain'", "Kind (plain, fancy)")
    assert described["colours"] == ("RED", "Look")


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_of_a_stage_is_described(stage):
    for name, default, meaning in describe(stage):
        assert len(meaning) > 10, name
        assert meaning[0].isupper() or meaning.startswith("beta"), name
        assert default
    assert len({name for name, _, _ in describe(stage)}) == len(fields(stage))


def _given(stage: type[Settings]) -> dict[str, object]:
    return {"dataset": "sample", "dataset_folder": "x"} if stage is RqVaeSettings else {}


@pytest.mark.parametrize("stage", STAGES)
def test_the_gin_text_of_settings_gives_them_back(stage, tmp_path):
    changed = {"seed": 7, "max_grad_norm": None, "trackers": (), "learning_rate": 3e-3}
    made = stage(**_given(stage), **changed)
    file = tmp_path / "config.gin"
    file.write_text(made.as_gin())
    assert configure(stage, file) == made
    gin.clear_config()


@given(
    name=st.sampled_from(sorted({f.name for f in fields(DecoderSettings)})),
    value=st.one_of(
        st.none(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.booleans(),
        st.lists(st.one_of(st.integers(-2, 3), st.text(max_size=2)), max_size=3),
    ),
)
def test_any_value_is_taken_or_refused_in_one_line(name, value):
    message = ""
    try:
        made = DecoderSettings(**{name: value})
    except ConfigError as error:
        message = str(error)
    else:
        assert isinstance(made.as_gin(), str)
    assert "must" in message or not message
    assert "\n" not in message


#: Names that mean something else in each stage.
OTHER_MEANING = {"pretrained_rqvae_path", "eval_every", "attn_layers"}


def test_no_setting_is_described_twice():
    known = [field for stage in STAGES for field in fields(stage)]
    by_meaning, by_name = {}, {}
    for field in known:
        description = id(field.metadata["rules"])  # one object for each call of ``setting``
        if field.metadata["meaning"].startswith("Stage one's; "):
            continue  # names that stage two accepts and does not use
        assert by_meaning.setdefault(field.metadata["meaning"], description) == description
        if field.name not in OTHER_MEANING:
            assert by_name.setdefault(field.name, description) == description, field.name


@pytest.mark.parametrize("name", ["later_temperature", "learning_rate"])
def test_no_number_is_infinite(name: str) -> None:
    """It could not be written into the run's JSON."""
    with pytest.raises(ConfigError, match=f"{name} must be .*, got inf"):
        DecoderSettings(**{name: float("inf")})
