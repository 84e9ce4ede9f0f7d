"""What visitors can fill holes with: checkpoints, the small network, methods, MMagic's weights."""

import sys
import threading
from pathlib import Path
from typing import Any

from glinpaint_jax.downloads import BUNDLED, OFFICIAL, locate
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.inference.methods import METHODS
from glinpaint_jax.step_folders import FOLDER

TITLES = {
    "small": "Small network",
    "smooth": "Smooth",
    "telea": "Telea",
    "navier-stokes": "Navier-Stokes",
    "places": "Places (MMagic)",
    "celeba_hq": "CelebA-HQ (MMagic)",
}


class Methods:
    """Completers by name; `default` is the first of those given.

    MMagic's weights are downloaded and loaded when first asked for.
    """

    def __init__(self, completers: dict[str, Completer]):
        self.default = next(iter(completers))
        self._ready = dict(completers)
        if BUNDLED not in completers:
            self._ready[BUNDLED] = Completer()
        for name in METHODS:
            self._ready.setdefault(name, Completer(method=name))
        self._names = [*self._ready, *(name for name in OFFICIAL if name not in self._ready)]
        self._progress: dict[str, float] = {}  # share of the running download
        self._loading = threading.Lock()

    def describe(self) -> list[dict[str, Any]]:
        """Returns a JSON-compatible description of each method."""
        return [
            {
                "name": name,
                "title": TITLES.get(name, name),
                "ready": name in self._ready,
                "progress": self._progress.get(name),
            }
            for name in self._names
        ]

    def get(self, name: str) -> Completer:
        """Returns the completer, which may take minutes. Raises UserError if there is none."""
        if name not in self._names:
            raise UserError(f"method={name!r} must be one of {', '.join(self._names)}")
        if name not in self._ready:
            with self._loading:
                if name not in self._ready:
                    self._load(name)
        return self._ready[name]

    def _load(self, name: str) -> None:
        def report(received: int, size: int | None) -> None:
            self._progress[name] = received / size if size else 0.0

        self._progress[name] = 0.0
        try:
            self._ready[name] = Completer.load(locate(name, report))
        except UserError as error:  # it may name a path on this machine
            print(f"error: {error}", file=sys.stderr, flush=True)
            reason = "cannot be loaded; the server's log says why"
            raise UserError(f"{TITLES[name]} {reason}") from None
        finally:
            del self._progress[name]


def name_checkpoint(place: str) -> str:
    """Returns a short name for a checkpoint: its file or folder, or "RUN STEP".

    Names of ours and of MMagic's weights mean these: a run of that name is called "FOLDER/RUN".
    """
    path = Path(place.rstrip("/")).absolute()
    if path.name.isdigit() and path.parent.name == FOLDER:
        return f"{path.parent.parent.name} {path.name}"
    if path.name in TITLES and path.exists():
        return f"{path.parent.name}/{path.name}"
    return path.name
