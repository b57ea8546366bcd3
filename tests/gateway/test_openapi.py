"""The gateway does what its OpenAPI document says, whatever it is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks

from llmctl.gateway.openapi import ROUTES
from tests.gateway.site import Site, site

EXAMPLES = 20  # of requests to each path in each mode
MODELS = ["sim", "answers", "claude", "google", "nobody"]
CHECKS: Any = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
BODIES = {route for route in ROUTES if route.startswith("/v1/") and "models" not in route}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with an admin's token."""
    environ = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    folder = tmp_path_factory.mktemp("openapi")
    with site(folder, environ, "", tokens={"boss": {"admin": True}}) as made:
        yield made


@pytest.fixture(scope="module")
def schema(running: Site) -> Any:
    """The document that it serves, with the names of its models: of any text most is none."""
    found = running.get(running.secrets["boss"], "/openapi.json").json()
    for one in found["components"]["schemas"].values():
        if "model" in one.get("properties", {}):
            one["properties"]["model"] = {"enum": MODELS}
    return schemathesis.openapi.from_dict(found)


@pytest.mark.parametrize(
    ("route", "mode"),
    [
        *((route, GenerationMode.POSITIVE) for route in sorted(ROUTES)),
        *((route, GenerationMode.NEGATIVE) for route in sorted(BODIES)),
    ],
)
def test_answers_are_as_the_document_says(
    running: Site, schema: Any, route: str, mode: GenerationMode
) -> None:
    """Requests as the document wants them, and such as it does not, are never a mistake of the
    server's, and get a status and a body that the document knows."""
    operation = schema[route]["POST" if route in BODIES else "GET"]
    key = {"authorization": f"Bearer {running.secrets['boss']}"}
    session = requests.Session()
    session.trust_env = False

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def ask(case: Case[Any]) -> None:
        reply = case.call(base_url=running.gateway.url, session=session, headers=key)
        case.validate_response(reply, checks=CHECKS)

    with session:
        ask()
