"""What a machine consists of, changed after it was made.

``rules``         what can be changed now, and why the rest cannot
``requests``      each change: one transaction, one job
``steps``         what the jobs do on the host, and what their end means
``presentation``  what the tab Hardware shows
"""
