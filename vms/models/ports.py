"""TCP ports of machines that people outside of their network reach through this site."""

from __future__ import annotations

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from vms.models.machines import VM

PORTS = (1, 65535)


class PublishedPort(models.Model):
    """A port of a machine, and the one of this site that leads there. Gone with the machine, and
    when it goes into the recycle bin."""

    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="published_ports")
    guest_port = models.PositiveIntegerField(
        validators=[MinValueValidator(PORTS[0]), MaxValueValidator(PORTS[1])]
    )
    public_port = models.PositiveIntegerField(unique=True)  # of ``settings.PUBLISH_PORTS``
    note = models.CharField(max_length=100, blank=True)
    # Who wants it open: it is as long as they may change the machine. None: nobody since the
    # machine was given away.
    opened_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    # Written by ``manage.py publishports``.
    listening = models.BooleanField(default=False)
    problem = models.CharField(max_length=32, blank=True)  # why the last one was not carried

    class Meta:
        ordering = ["guest_port"]
        constraints = [
            models.UniqueConstraint(fields=["vm", "guest_port"], name="port_published_once"),
            models.CheckConstraint(
                name="port_is_one_of_tcp",
                condition=Q(guest_port__range=PORTS) & Q(public_port__range=PORTS),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.public_port} -> {self.guest_port}"
