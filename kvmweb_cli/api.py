"""The site's API, as commands need it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx

from kvmweb_cli.config import Site
from kvmweb_cli.errors import CommandError

TIMEOUT_S = 30
PAGE = 200


class Api:
    def __init__(self, site: Site) -> None:
        self.site = site
        self._client = httpx.Client(
            base_url=f"{site.url}/api/v1",
            headers={"Authorization": f"Bearer {site.token}"},
            timeout=TIMEOUT_S,
        )

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The answer's JSON. CommandError in the site's own words."""
        answer = self._ask(method, path, body, query)
        return answer.json() if answer.content else None

    def text(self, path: str, **query: Any) -> str:
        return self._ask("GET", path, None, query).text

    def _ask(self, method: str, path: str, body: Any, query: dict[str, Any]) -> httpx.Response:
        try:
            answer = self._client.request(method, path, json=body, params=query or None)
        except httpx.HTTPError as error:
            raise CommandError(f"{self.site.url} does not answer: {error}") from error
        if answer.is_success:
            return answer
        raise CommandError(_why(answer))

    def machines(self, words: str = "") -> list[dict[str, Any]]:
        """All that match, page by page."""
        found: list[dict[str, Any]] = []
        number = 1
        while True:
            page = self.call("GET", "/vms", q=words, page=number, page_size=PAGE)
            found += page["items"]
            if not page["items"] or len(found) >= page["count"]:
                return found
            number += 1

    def machine(self, name: str) -> dict[str, Any]:
        """By name or UUID. CommandError: there is none, or several of that name."""
        try:
            one: dict[str, Any] = self.call("GET", f"/vms/{UUID(name)}")
        except ValueError:
            pass
        else:
            return one
        found = [vm for vm in self.machines(name) if vm["name"] == name]
        if not found:
            raise CommandError(f"There is no machine “{name}” that you may see.")
        if len(found) > 1:
            lines = "\n".join(f"  {vm['uuid']}  {vm.get('team', '')}" for vm in found)
            raise CommandError(f"Several machines are called “{name}”. Say which one:\n{lines}")
        return found[0]

    def ticket(
        self, uuid: str, kind: str, *, mode: str | None = None, take: bool = False
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"kind": kind, "take": take}
        if mode is not None:
            body["mode"] = mode
        ticket: dict[str, Any] = self.call("POST", f"/vms/{uuid}/console", body)
        return ticket


def _why(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        fields = [text for texts in (problem.get("errors") or {}).values() for text in _list(texts)]
        said = " ".join([problem.get("detail") or problem.get("title") or "", *fields]).strip()
    except (ValueError, AttributeError):
        said = ""
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return said or "The site does not know this token. Make a new one under Profile."
    return said or f"The site said {answer.status_code} to {answer.request.url}."


def _list(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
