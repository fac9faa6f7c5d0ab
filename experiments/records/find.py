"""The run meant by a path or the beginning of a name."""

from pathlib import Path

from ppo.refusals import UserError, near_matches


def find_run(name: str, records: Path) -> Path:
    """The folder of the one run meant: a path to it, into it or above it, or the beginning of its name or id."""
    place = Path(name)
    found = sorted(config.parent for config in place.rglob("config.json"))
    if not found and place.exists():
        found = [folder for folder in place.resolve().parents[:2] if (folder / "config.json").is_file()]
    known = sorted(config.parent for config in (records / "runs").glob("*/*/config.json"))
    if not found:
        names = {folder: (folder.name, *folder.name.rpartition("-")[::2]) for folder in known}
        whole = [folder for folder in known if name in names[folder]]  # …s1 is not also …s10
        found = whole or [folder for folder in known if any(own.startswith(name) for own in names[folder])]
    if len(found) > 1:
        some = ", ".join(map(str, found[:6])) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
        raise UserError(f"{name} could be {some}; give one of these folders, or more of a name")
    if not found:
        near = near_matches(name, sorted({folder.name.rpartition("-")[0] for folder in known}))
        raise UserError(f"no run is at the path {name}, and none of the {len(known)} in {records} is called so{near}")
    return found[0]
