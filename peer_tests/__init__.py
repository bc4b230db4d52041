"""Tests against real open servers: `make test-peers`."""
