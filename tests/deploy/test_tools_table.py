"""The table of ``docs/user/tools.md`` names operations that the API has."""

from __future__ import annotations

import re

import pytest

from kvmweb.api import api
from tests.servers import ROOT

DOCUMENT = ROOT / "docs" / "user" / "tools.md"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def operations() -> list[tuple[str, str]]:
    """(method, address) of every row, written out: "…" is a machine's."""
    found = []
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    for row in rows[1:]:
        method, waiting = "", []
        for span in re.findall(r"`([^`]*)`", row.rsplit(" | ", 1)[-1]):
            words = span.split(" ")
            if words[0] in METHODS:
                method = words.pop(0)
                waiting.append(method)
            elif words[0][:1] not in ("/", "…"):
                continue
            if words:
                found += [(one, words[0]) for one in waiting or [method]]
                waiting = []
    return found


def address(said: str) -> tuple[str, str]:
    """(path, query) as OpenAPI writes it, parameters unnamed."""
    path, _, query = said.partition("?")
    path = path.removeprefix("/api/v1")
    if path.startswith("…"):
        path = "/vms/{uuid}" + path[1:]
    elif path.count("/") == 1 and path not in ("/vms", "/batches", "/images"):
        path = "/vms/{uuid}" + path  # "`POST …/start`, `/shutdown`"
    return re.sub(r"\{\w+\}", "{}", path), query.partition("=")[0]


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, str], set[str]]:
    """The query parameters of each operation."""
    return {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path.removeprefix("/api/v1"))): {
            one["name"] for one in about.get("parameters", []) if one["in"] == "query"
        }
        for path, of_path in api.get_openapi_schema()["paths"].items()
        for method, about in of_path.items()
    }


def test_there_are_many() -> None:
    assert len(operations()) > 55


@pytest.mark.parametrize(("method", "said"), sorted(set(operations())))
def test_the_api_has_it(method: str, said: str, known: dict[tuple[str, str], set[str]]) -> None:
    path, parameter = address(said)
    assert (method, path) in known
    assert not parameter or parameter in known[method, path]
