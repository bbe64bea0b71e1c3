"""A new machine from one that is there: its disks, with an identity of its own.

``requests``  what is asked and refused; one transaction writes the machine and two jobs
``steps``     the copy, of a stopped machine, a running one, or a snapshot
``lending``   the other job: it keeps the source as it is while it is read

What makes it somebody else inside is the seed (``vms.seeds``, ``vms/identity.sh``).
"""
