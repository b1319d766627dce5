"""A durable runtime for AI-agent tasks on NATS JetStream."""
