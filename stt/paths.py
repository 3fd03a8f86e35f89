"""Finds the files that the program reads: SQL, templates, static files, from a wheel or a source tree."""

from __future__ import annotations

from pathlib import Path

# A wheel has them inside the package (hatch_build.py), a source tree beside it.
_PACKAGE = Path(__file__).resolve().parent
_ASSETS = _PACKAGE / "assets" if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent

SQL = _ASSETS / "sql"
TEMPLATES = _ASSETS / "templates"
STATIC = _ASSETS / "static"
