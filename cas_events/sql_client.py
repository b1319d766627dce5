"""Asking the projector SQL over NATS."""
