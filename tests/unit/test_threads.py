"""Work side by side: all of it, in order, one thread each, and none of it after an error."""

from __future__ import annotations

import threading

import pytest
import torch

from genrec.threads import side_by_side


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_with_a_core_each(two_threads):
    together = threading.Barrier(2, timeout=30)  # breaks unless two pieces run at once

    def work(number: int) -> tuple[int, int]:
        together.wait()
        return number, torch.get_num_threads()

    assert list(side_by_side(work, 6, "cpu")) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 2


def test_an_error_ends_it(two_threads):
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise ValueError("no")
        return number

    with pytest.raises(ValueError, match="no"):
        list(side_by_side(work, 10_000, "cpu"))
    assert len(begun) < 10_000
    assert torch.get_num_threads() == 2


def test_one_thread_and_other_devices_stay_in_the_caller():
    here = threading.get_ident()
    before = torch.get_num_threads()
    for threads, device in ((1, "cpu"), (2, "meta")):
        torch.set_num_threads(threads)
        assert set(side_by_side(lambda _: threading.get_ident(), 3, device)) == {here}
    torch.set_num_threads(before)
