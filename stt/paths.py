"""Where files lie: what the program reads, from a wheel or a source tree, and what the data folder holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# A wheel has them inside the package (hatch_build.py), a source tree beside it.
_PACKAGE = Path(__file__).resolve().parent
_ASSETS = _PACKAGE / "assets" if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent

SQL = _ASSETS / "sql"
TEMPLATES = _ASSETS / "templates"
STATIC = _ASSETS / "static"


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The layout of a data folder. Recordings and results lie under the root of `stt.storage`."""

    root: Path

    @property
    def models(self) -> Path:
        """Models that were downloaded or put together."""
        return self.root / "models"

    @property
    def alignment_models(self) -> Path:
        """Models of wav2vec2, which give words their times."""
        return self.models / "align"

    @property
    def speaker_models(self) -> Path:
        """Models that tell speakers apart."""
        return self.models / "speakers"

    @property
    def postgres(self) -> Path:
        """The embedded PostgreSQL."""
        return self.root / "postgres"

    @property
    def valkey(self) -> Path:
        """The embedded Valkey."""
        return self.root / "valkey"

    @property
    def costs(self) -> Path:
        """What each stage of a job costs on this machine."""
        return self.root / "costs.json"

    @property
    def lock(self) -> Path:
        """Who runs on this data folder."""
        return self.root / "stt.lock"
