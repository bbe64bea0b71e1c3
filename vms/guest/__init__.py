"""What goes on inside a machine, as far as its guest agent tells and does.

``reading``       its facts: read by a worker, kept in a row, shown by pages
``requests``      what it is told to do: one transaction, one job
``steps``         what those jobs do, and what their end means
``freezing``      its file systems stand still while its disks are copied
``presentation``  what the tab Guest shows

All of it is a claim of whoever is root in there: shown, and never a reason to allow something.
"""
