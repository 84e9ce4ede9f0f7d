"""Our configs as modules. A wheel holds them in this folder, a checkout in its folder configs/."""

from pathlib import Path

FOLDER = Path(__file__).parent
if not (FOLDER / "places.py").is_file():
    FOLDER = FOLDER.parent.parent / "configs"
__path__ = [str(FOLDER)]
