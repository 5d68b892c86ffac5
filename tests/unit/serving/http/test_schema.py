"""Whatever the schema allows, and much that it does not, gets an answer that the schema knows."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is in the extra dev")
pytest.importorskip("fastapi", reason="the extra serve is not installed")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402

from genrec.serving.http.app import build_app  # noqa: E402
from genrec.serving.http.metrics import Metrics  # noqa: E402
from genrec.serving.http.service import Service, Source  # noqa: E402
from genrec.serving.http.settings import ServiceSettings  # noqa: E402

TOKEN = "0123456789abcdef"


@asynccontextmanager
async def endless(_):
    """Each call of the tester would end the service otherwise."""
    yield


@pytest.fixture(scope="module")
def api(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    source = Source(run=str(run), device="cpu", journal=folder / "journal", models=folder)
    service = Service(source, ServiceSettings())
    app = build_app(service, token=TOKEN, metrics=Metrics())
    app.router.lifespan_context = endless
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    service.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_answer_is_one_of_the_schema(api, mode):
    # No schema can say that users must be as many as histories, and that null is none.
    unsayable = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
    labels = []
    for found in api.get_all_operations():
        operation = found.ok()
        labels.append(operation.label)
        told = {"generation_mode": schemathesis.GenerationMode[mode]}

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(**told))
        def check(case):
            case.call_and_validate(
                headers={"Authorization": f"Bearer {TOKEN}"}, excluded_checks=unsayable
            )

        with suppress(Unsatisfiable):  # what takes no arguments cannot be asked wrongly
            check()
    assert len(labels) == 12
