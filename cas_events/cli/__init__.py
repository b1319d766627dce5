"""The `cas` command."""


def main() -> None:
    """Run the `cas` command."""
