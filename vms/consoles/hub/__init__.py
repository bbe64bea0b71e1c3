"""One machine's screen for many viewers, over one connection to its display.

    display (QEMU) -> upstream.DisplayClient -> screen.Screen -> encode.*  -> viewer.Viewer (each)
                          ours, Raw            what it shows    once         a server of RFB 3.8

``room`` joins them. Nothing that a viewer sends reaches the display: view-only by construction.
"""
