"""Published ports: one TCP port of a machine, reached through one of this site.

``requests`` is what people do, ``rules`` says when one is open, ``targets`` finds the machine's end
and ``publisher`` (``manage.py publishports``) listens and carries the bytes. Nothing listens unless
an admin has set ``KVMWEB_PUBLISH_PORTS``.
"""
