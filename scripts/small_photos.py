"""Fetches the photographs of configs/small.py into data/small_photos and data/small_photos_128.

    python scripts/small_photos.py

scripts/small_photos.tsv lists them, with their licenses. They come from Debian and Python packages,
which are downloaded and unpacked but not installed: this needs a Debian system and 290 MB. Each
folder has train/ and val/; short sides are at most 320 and 128 pixels. val/repeated.txt lists each
held-out photograph 16 times, for evaluations on 16 crops of each. Finished folders are kept.
"""

import csv
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2

from glinpaint_jax.errors import UserError

LIST = Path(__file__).with_name("small_photos.tsv")
SIDES = {"small_photos": 320, "small_photos_128": 128}  # folder below data: longest short side
PYPI = ("scikit-image", "scikit-learn")
JPEG_QUALITY = 95
REPEATS = 16  # crops of each held-out photograph in an evaluation


def main() -> None:
    with LIST.open(newline="") as file:
        photos = list(csv.DictReader(file, delimiter="\t"))
    root = LIST.parent.parent / "data"
    missing = {name: side for name, side in SIDES.items() if not (root / name).exists()}
    if not missing:
        return
    root.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        folder = Path(temporary)
        for package in dict.fromkeys(photo["package"] for photo in photos):
            print(f"fetching {package}", flush=True)
            unpack(package, folder / "packages" / package)
        for number, photo in enumerate(photos):
            path = folder / "packages" / photo["package"] / photo["path"]
            for name, side in missing.items():
                target = folder / name / photo["part"] / f"{number:03d}_{photo['package']}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                reduce(path, target, side)
        for name in missing:
            held_out = sorted(path.name for path in (folder / name / "val").iterdir())
            text = "\n".join(held_out * REPEATS) + "\n"
            (folder / name / "val" / "repeated.txt").write_text(text)
            (folder / name).rename(root / name)
            print(f"{root / name}: {len(photos)} photographs", flush=True)


def unpack(package: str, folder: Path) -> None:
    """Downloads a package and unpacks it below `folder`. Raises UserError if that fails."""
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    download = pip if package in PYPI else ["apt-get", "-qq", "download"]
    try:
        subprocess.run([*download, package], cwd=folder, check=True)
        (archive,) = folder.iterdir()
        if archive.suffix == ".whl":
            zipfile.ZipFile(archive).extractall(folder)
        else:
            subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"cannot download and unpack {package}: {error}; this needs pip and, on Debian, "
            "apt-get and dpkg-deb"
        ) from None


def reduce(path: Path, target: Path, side: int) -> None:
    """Writes the photograph as a JPEG whose short side is at most `side` pixels."""
    image = cv2.imread(str(path))
    if image is None:
        raise UserError(f"{path} is missing or no image; the package's version may have changed")
    scale = side / min(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
