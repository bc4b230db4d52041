"""The gateway store: the catalog `fleming`, and all SQL spoken to it."""
