"""docs/licences.md: what triptych needs and the licences of it, from the metadata of what is installed.

    python scripts/list_licences.py

Run it in an environment with all extras (`make test` makes one). A package that is not installed, since this platform does not need it, is
left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).resolve().parents[1] / "docs" / "licences.md"
EXTRAS = ("dask", "tensorboard")
HEAD = """# Licences

triptych itself has the BSD 3-clause licence (`LICENSE`). What it needs is not part of it; pip installs it. This list is made by
`scripts/list_licences.py` from the metadata of the packages, in the versions that were installed then; a test checks that no dependency is
missing. "Extra" is needed only for the option of that name.

| package | version | licence | needed by |
|---|---|---|---|
"""


def licence(package: Distribution) -> str:
    """What a package's metadata say, by preference as an SPDX expression; its classifiers where the field holds a whole text."""
    about = package.metadata
    classifiers = [line.rsplit(" :: ", 1)[1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    stated = about.get("License-Expression") or about.get("License") or ""
    return stated if stated and len(stated) < 60 and "\n" not in stated else ", ".join(classifiers) or "see its files"


def needs(package: Distribution, extra: str = "") -> Iterator[str]:
    """Names of the packages that a package needs on this platform; with an extra, those of the extra only."""
    for text in package.requires or []:
        requirement = Requirement(text)
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if (not extra and always) or (extra and not always and requirement.marker and requirement.marker.evaluate({"extra": extra})):
            yield canonicalize_name(requirement.name)


def follow(names: Iterator[str], why: str, found: dict[str, tuple[Distribution, str]]) -> None:
    """Add packages and all that they need; the first reason stands."""
    for name in names:
        if name in found or name == "triptych":
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = package, why
        follow(needs(package), why if why != "triptych" else name, found)


def main() -> None:
    ours = distribution("triptych")
    found: dict[str, tuple[Distribution, str]] = {}
    direct = list(needs(ours))
    for name in direct:  # before what these need
        found[name] = distribution(name), "triptych"
    for name in direct:
        follow(needs(found[name][0]), name, found)
    for extra in EXTRAS:
        follow(needs(ours, extra), f"extra {extra}", found)
    rows = [f"| {name} | {package.version} | {licence(package)} | {why} |" for name, (package, why) in sorted(found.items())]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{PAGE}: {len(rows)} packages")


if __name__ == "__main__":
    main()
