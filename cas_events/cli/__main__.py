"""``python -m cas_events.cli``: the `cas` command of this very interpreter, for child processes."""

from cas_events.cli import main

if __name__ == "__main__":
    main()
