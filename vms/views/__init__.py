"""Pages: fetch with access, validate, call one service, respond."""
