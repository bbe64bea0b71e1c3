from __future__ import annotations

import pytest

from vms.models import VM


@pytest.fixture
def running_vm(vm: VM) -> VM:
    vm.observed = VM.Observed.RUNNING
    vm.save()
    return vm
