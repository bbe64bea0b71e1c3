"""States that a machine can go back to.

``rules``         which of them are possible now, and why the others are not
``requests``      take, go back, delete: one transaction, one job
``steps``         what the jobs do on the host, and what their end means
``presentation``  the tree that the page and the API show
"""
