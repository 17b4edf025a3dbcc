"""Copies the pictures that the docs show from var/screenshots, where browser tests leave them, to docs/images.

make browser && make images
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS, IMAGES = ROOT / "var" / "screenshots", ROOT / "docs" / "images"
CHOSEN = {
    "story-client-review": "client-scopes",
    "story-client-request": "client-request",
    "hospital-message-lit": "message",
    "hospital-overlay-faults": "overlay",
    "hospital-dead-letters": "dead-letters",
    "story-activity": "activity",
    "operator-health-1440-light": "health",
}
"""The picture of a browser test -> its name in the documentation."""
LARGEST = 250_000
"""Bytes of a picture: the repository keeps every version of it."""


def main() -> None:
    """Copies them all, or says which are missing or too large."""
    missing = [name for name in CHOSEN if not (SCREENSHOTS / f"{name}.png").is_file()]
    large = [name for name in CHOSEN if name not in missing and _size(name) > LARGEST]
    if missing or large:
        sys.exit(f"missing: {missing}; larger than {LARGEST} bytes: {large}. Run make browser first.")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, to in CHOSEN.items():
        shutil.copyfile(SCREENSHOTS / f"{name}.png", IMAGES / f"{to}.png")


def _size(name: str) -> int:
    return (SCREENSHOTS / f"{name}.png").stat().st_size


if __name__ == "__main__":
    main()
