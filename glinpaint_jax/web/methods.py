"""Names of what visitors can fill holes with: checkpoints and methods."""

from pathlib import Path

from glinpaint_jax.step_folders import FOLDER

TITLES = {
    "auto": "Automatic",
    "patches": "Patches",
    "network": "Small network",
    "small": "Small network",
    "smooth": "Smooth",
    "telea": "Telea",
    "navier-stokes": "Navier-Stokes",
    "places": "Places (MMagic)",
    "celeba_hq": "CelebA-HQ (MMagic)",
}
WAYS = ("", ", from nearby", ", another search", ", another search from nearby", ", the network")
SMALLER = "Automatic keeps texture; smaller holes help"  # if one is too large for a network


def name_checkpoint(place: str) -> str:
    """Returns a short name for a checkpoint: its file or folder, or "RUN STEP".

    The names in TITLES mean ours and MMagic's weights: a run or URL that ends in one is called
    "FOLDER/NAME".
    """
    path = Path(place.rstrip("/")).absolute()
    if path.name.isdigit() and path.parent.name == FOLDER:
        return f"{path.parent.parent.name} {path.name}"
    if path.name in TITLES and (place not in TITLES or path.exists()):
        return f"{path.parent.name}/{path.name}"
    return path.name
