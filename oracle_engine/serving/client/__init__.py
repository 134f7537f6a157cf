"""The client of a server: an oracle behind it, for callers that wait and for event loops."""
