"""Everything that talks to NATS: the only folder that imports `nats`."""
