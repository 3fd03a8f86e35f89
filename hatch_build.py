"""Puts the files that the program reads into the wheel: SQL, templates, static files.

The front-end packages in static/vendor are no part of the repository, but they are of the wheel. An editable
installation reads everything from the source tree, so it needs none of this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ASSETS = ("sql", "static", "templates")
VENDORED = ("htmx.min.js", "sse.min.js")  # package.json: vendor


class AssetsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling for each wheel (pyproject.toml)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folders to a standard wheel; `stt/paths.py` finds them there.

        Args:
            version: "standard", or "editable" for an installation of the source tree.
            build_data: What hatchling builds from; `force_include` maps files to their place in the wheel.

        Raises:
            FileNotFoundError: The front-end packages are not in static/vendor.
        """
        if version != "standard":
            return
        root = Path(self.root)
        missing = [name for name in VENDORED if not (root / "static" / "vendor" / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"static/vendor lacks {', '.join(missing)}: run `npm ci` and `npm run vendor` first"
            )
        build_data["force_include"].update({str(root / name): f"stt/assets/{name}" for name in ASSETS})
