"""docs/licences.md: what triptych needs and the licences of it, from the metadata of what is installed.

    python scripts/list_licences.py

Run it in an environment with all extras (`make test` makes one). A package that is not installed, since this platform does not need it, is
left out.
"""

from __future__ import annotations

import argparse
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
EXTRAS = ("dask", "tensorboard")
HEAD = """# Licences

triptych itself has the BSD 3-clause licence (`LICENSE`). What it needs is not part of it; pip installs it. This list is made by
`scripts/list_licences.py` from the metadata of the packages, in the versions that were installed then; a test checks that no dependency is
missing. "Extra" is needed only for the option of that name. The extra napari is left out: it brings the many packages of a viewer, among them PyQt6,
which is under the GPL.

| package | version | licence | needed by |
|---|---|---|---|
"""


def licence(package: Distribution) -> str:
    """What a package's metadata say, by preference as an SPDX expression; its classifiers where the field holds a whole text."""
    about = package.metadata
    classifiers = [line.rsplit(" :: ", 1)[1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    stated = (about.get_all("License-Expression") or about.get_all("License") or [""])[0]
    return stated if stated and len(stated) < 60 and "\n" not in stated else ", ".join(classifiers) or "see its files"


def needs(package: Distribution) -> list[str]:
    """Names of the packages that a package needs on this platform."""
    return names_of(package.requires or [])


def names_of(requirements: list[str]) -> list[str]:
    """Names in requirements, without those of other platforms and of extras."""
    parsed = [Requirement(text) for text in requirements]
    return [canonicalize_name(one.name) for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]


def follow(names: list[str], why: str, found: dict[str, tuple[Distribution, str]]) -> None:
    """Add packages and all that they need; the first reason stands."""
    for name in names:
        if name in found or name == "triptych":
            continue
        try:
            found[name] = distribution(name), why
        except PackageNotFoundError:
            continue
        follow(needs(found[name][0]), why, found)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = names_of(project["dependencies"])
    found = {name: (distribution(name), "triptych") for name in direct}
    for name in direct:
        follow(needs(found[name][0]), name, found)
    for extra in EXTRAS:
        follow(names_of(project["optional-dependencies"][extra]), f"extra {extra}", found)
    rows = [f"| {name} | {package.version} | {licence(package)} | {why} |" for name, (package, why) in sorted(found.items())]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{PAGE}: {len(rows)} packages")


if __name__ == "__main__":
    main()
