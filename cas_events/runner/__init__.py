"""The process that turns commands into events by running agents."""
