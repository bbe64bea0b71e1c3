"""What is wrong with a wish, gathered while it is settled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vms.knobs.offer import Offered

if TYPE_CHECKING:
    from vms.provisioning.validation import Problems


@dataclass
class Settling:
    """Gathers problems under the inputs' names: ``disk_bus``, ``disk2_bus``, ``nic3_mac``..."""

    problems: Problems
    has: Offered
    taken_macs: set[str] = field(default_factory=set)

    def one_of(self, name: str, value: str, allowed: Iterable[str]) -> None:
        if value not in tuple(allowed):
            self.problems.add(name, "vm.knob_unknown", given=value[:40])
