"""Models that are fitted: the best of a grid, and nothing scored without one."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.benchmark.fitted import FITTED, check_grid, fit_best
from genrec.errors import ConfigError
from genrec.rankers_linear import Ease


@pytest.fixture
def data(tmp_path, write_data):
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(12)[:6] for _ in range(30)]
    return write_data(tmp_path / "data", [f"i{n}" for n in range(12)], sequences=sequences)


@pytest.mark.parametrize("kind", FITTED)
def test_without_a_grid_nothing_is_scored(data, kind):
    fit = fit_best(kind, data, {}, lambda ranker: pytest.fail("scored"))
    assert isinstance(fit.ranker, FITTED[kind])
    assert fit.chosen == {}
    assert fit.parameters == {"item-knn": 144, "ease": 144}.get(kind, 0)


def test_the_best_of_a_grid_is_kept_and_a_decay_needs_no_fit(data, monkeypatch):
    fitted, scored = [], []
    fit = Ease.fit.__func__

    def counted(cls, data, **how):
        fitted.append(how["ridge"])
        return fit(cls, data, **how)

    monkeypatch.setattr(Ease, "fit", classmethod(counted))
    monkeypatch.setattr("genrec.benchmark.fitted._settings", lambda kind: ["max_history"])
    monkeypatch.setattr("genrec.benchmark.fitted._whole", lambda kind, given: given)

    def score(ranker):
        scored.append(ranker.decay)
        return -abs(ranker.decay - 0.5) - len(fitted)  # the earlier fit is the better one

    found = fit_best("ease", data, {"ridge": [1.0, 9.0], "decay": [0.2, 0.6, 0.4]}, score)
    assert fitted == [1.0, 9.0]
    assert scored == [0.2, 0.6, 0.4] * 2
    assert found.chosen == {"ridge": 1.0, "decay": 0.6}  # of equals the first
    assert found.ranker.decay == 0.6
    assert np.allclose(found.ranker.weights, fit(Ease, data, ridge=1.0).weights)


def test_whole_numbers_of_a_grid_stay_whole(data):
    fit = fit_best("item-knn", data, {"num_neighbours": [3.0]}, lambda ranker: 0.0)
    assert fit.ranker.neighbours.shape == (12, 3)
    assert fit.chosen == {"num_neighbours": 3.0}
    with pytest.raises(ConfigError, match="got 'ridge'; did you mean shrinkage"):
        check_grid("item-knn", {"ridge": [1.0]})
