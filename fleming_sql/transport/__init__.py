"""The way to the network: one small interface, a pool of kept-alive connections, and httpx's transports beside it."""

from fleming_sql.transport.base import HttpReply, HttpRequest, Transport, TransportFailed

__all__ = ["HttpReply", "HttpRequest", "Transport", "TransportFailed"]
