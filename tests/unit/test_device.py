"""The device that was asked for, or one line that says which there are."""

from __future__ import annotations

import pytest
import torch

from genrec.device import pick_device
from genrec.errors import ConfigError


def test_none_takes_what_is_there():
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_what_is_there_is_taken():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", ""])
def test_what_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match=rf"device must be one .*, cpu.*, got {name};"):
        pick_device(name)
