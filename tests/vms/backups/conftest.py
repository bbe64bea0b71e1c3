"""A machine to back up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.vms.conftest import run_to_end
from vms import lifecycle
from vms.models import VM

Made = Callable[..., VM]


@pytest.fixture
def vm(made: Made) -> VM:
    """Made, booted once, and off."""
    row = made()
    run_to_end(lifecycle.request(row, "force_off", actor=row.owner))
    row.refresh_from_db()
    return row
