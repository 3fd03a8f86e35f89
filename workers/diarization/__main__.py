"""``python -m workers.diarization``: the diarization process; see :mod:`workers.diarization.diarize`."""

from __future__ import annotations

from workers.diarization.diarize import main

if __name__ == "__main__":
    main()
