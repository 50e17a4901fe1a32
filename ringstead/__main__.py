"""`python -m ringstead`: how the supervisor starts services, whatever is on the PATH."""

from __future__ import annotations

from ringstead.cli import main

if __name__ == "__main__":
    main()
