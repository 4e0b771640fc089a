"""`python -m nbflow`: the command line without its script.

It does the same as the `nbflow` command. Handy where several environments share a shell, since it is clear which Python
runs. Nothing happens when this module is merely imported.
"""

from __future__ import annotations

import sys

from nbflow.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
