"""`python -m paymesh_cli`: the command line where the console script is not on PATH."""

from __future__ import annotations

from paymesh_cli import main

if __name__ == "__main__":
    main()
