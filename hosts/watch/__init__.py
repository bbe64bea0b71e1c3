"""The watcher: keeps what the rows say about hosts and their domains true.

``manage.py watchhosts`` runs it. ``supervisor`` looks after one ``dispatcher`` per host, which
tells the ``listeners`` what its host said; ``sampling`` turns counters into percentages.
"""

from hosts.watch.listeners import DomainSample, Listener, register_listener

__all__ = ["DomainSample", "Listener", "register_listener"]
