"""Bytes to values and back, without a NATS client."""
