"""Serial consoles: one hub per machine reads its line, everybody looks at the hub.

- ``ring``: what the line said last, and how it is put together with the host's log;
- ``viewer``: one person's console: what waits for them, how far they are;
- ``hub``: the line itself, opened once, opened again when it broke;
- ``pump``: between a WebSocket and a viewer;
- ``download``: the whole log over a WebSocket of its own;
- ``asciicast``: the recording.
"""
