"""The service held against its own OpenAPI, with parameters and bodies that schemathesis thinks up."""

import json
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

OPERATIONS = (
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /v1/models",
    "POST /v1/predict",
    "POST /v1/explain",
    "POST /v1/block",
    "POST /v1/lesion",
    "POST /v1/lesion/curve",
    "GET /v1/models/{name}/samples",
    "GET /v1/models/{name}/samples/{number}.png",
    "GET /v1/models/{name}/run",
    "GET /v1/models/{name}/confusion",
)
# What no schema says: which strings are pictures, and which names this service has. That a wrong picture is refused,
# and a right one taken, other tests tell.
_NOT_ASKED = ("positive_data_acceptance",)


@pytest.fixture(scope="module")
def schema(live: str) -> Any:
    return schemathesis.openapi.from_url(f"{live}/openapi.json")


def test_all_routes_are_told(schema: Any) -> None:
    assert {operation.ok().label for operation in schema.get_all_operations()} == set(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("label", OPERATIONS)
def test_answers_are_as_they_are_told(schema: Any, label: str, mode: GenerationMode) -> None:
    method, _, path = label.partition(" ")
    operation = schema[path][method]
    left_out = [check for check in CHECKS.get_all() if check.__name__ in _NOT_ASKED]
    if mode is GenerationMode.NEGATIVE and not operation.query and not operation.path_parameters and not operation.body:
        return  # nothing can be wrong with it

    @given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def check(case: Any) -> None:
        case.call_and_validate(excluded_checks=left_out)

    check()


def test_examples_can_be_sent_as_they_stand(client: TestClient) -> None:
    told = json.loads(client.get("/openapi.json").text)
    for way in ("/v1/predict", "/v1/explain", "/v1/block", "/v1/lesion", "/v1/lesion/curve"):
        body = told["paths"][way]["post"]["requestBody"]["content"]["application/json"]["example"]
        found = client.post(way, params={"block": "layer1.0"} if way == "/v1/block" else {}, json=body)
        assert found.status_code == 200, (way, found.text)
