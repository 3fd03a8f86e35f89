"""``python -m workers.engine FD``: see :mod:`workers.engine.channel`."""

from __future__ import annotations

from workers.engine.channel import main

if __name__ == "__main__":
    main()
