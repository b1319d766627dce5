"""The agents and workflows that come with the project."""
