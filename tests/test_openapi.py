"""Generated requests against the OpenAPI document: no server error, no answer that the document does not tell of."""

import pytest
from hypothesis import HealthCheck, given, settings
from made import COLOURS, photo, pipeline

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("lance", reason="pylance is not installed")

from mrnn.library import Library  # noqa: E402
from mrnn.web import create_app  # noqa: E402


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, colour in enumerate(COLOURS):
        photo(folder / f"{colour}.jpg", colour, i)
    pipe = pipeline(references=12)
    library = Library(tmp_path_factory.mktemp("openapi") / "library", pipe)
    library.index(folder)
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(pipe, library, token="secret"))


def test_generated_requests_get_documented_answers(api):
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) >= 9
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=12, database=None, suppress_health_check=list(HealthCheck))
        def check(case):
            # That bytes are no photo, or a sentence has no word, no schema can tell: a 422 is right.
            beyond = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
            case.call_and_validate(headers={"Authorization": "Bearer secret"}, excluded_checks=beyond)

        check()
