"""Checksums of everything in a folder: written last, so a folder that has them is whole.

`sha256sum --check manifest.sha256` reads the file too.
"""

from pathlib import Path

from glinpaint_jax.files import checksum, keep_on_disk, write_atomically

NAME = "manifest.sha256"


def write_manifest(folder: Path) -> None:
    """Lists every file below `folder`, once they are on the disk and not only in its cache."""
    lines = []
    for path in _files(folder):
        keep_on_disk(path)
        lines.append(f"{checksum(path)}  {path.relative_to(folder)}\n")
    write_atomically(folder / NAME, "".join(lines).encode())
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder, folder.parent):
        keep_on_disk(path)


def find_damage(folder: Path) -> str | None:
    """What differs from the manifest, in a few words; None where nothing does."""
    try:
        *lines, rest = (folder / NAME).read_bytes().decode().split("\n")
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        if rest:
            return f"{NAME} does not end with its last line"
        found = {str(path.relative_to(folder)): path for path in _files(folder)}
        for name in sorted(listed.keys() | found.keys()):
            if name not in found:
                return f"{name} is missing"
            if name not in listed:
                return f"{name} is not in its {NAME}"
            if checksum(found[name]) != listed[name]:
                return f"{name} has another checksum than when it was written"
    except FileNotFoundError:
        return f"it has no {NAME}, which is written last"
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        return f"{folder.name} cannot be read: {error}"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
