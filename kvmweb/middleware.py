"""Stub of the seams; accounts' helper writes it whole."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

GetResponse = Callable[[HttpRequest], HttpResponse]


class _Pass:
    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)


class ContentSecurityPolicyMiddleware(_Pass): ...


class RequestIdMiddleware(_Pass): ...


class UserLocaleMiddleware(_Pass): ...


class DomainErrorMiddleware(_Pass): ...
