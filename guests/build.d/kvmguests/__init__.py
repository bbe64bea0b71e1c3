"""Building guests from Debian's or Ubuntu's packages. Standard library only; runs as root.

``tiny`` and ``debian`` each make a folder of files; ``disk`` makes a bootable qcow2 of a folder;
``kernel`` takes a kernel and its modules out of packages; ``cache`` keeps what was built.
"""
