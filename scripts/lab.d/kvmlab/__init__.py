"""The lab: libvirt hosts in namespaces. Standard library only; runs as root.

``layout`` says where everything of a lab lives and which names and addresses it has,
``namespaces`` makes and enters a host's namespaces and finds its processes, ``inside`` is what
runs first within them, ``network`` joins the hosts, ``daemons`` starts and stops what a host
runs, ``host`` puts these together, ``faults`` breaks hosts on purpose, ``cli`` is the command.
"""
