"""Entries of the PDB and the EMDB, downloaded once and kept in a cache folder."""

from __future__ import annotations

import http.client
import logging
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from triptych.errors import InputError
from triptych.io.outputs import output_file
from triptych.parallel import Progress

logger = logging.getLogger(__name__)

PDB_URL = "https://files.rcsb.org/download"
EMDB_URL = "https://ftp.ebi.ac.uk/pub/databases/emdb/structures"
CACHE_VARIABLE = "TRIPTYCH_CACHE"
TIMEOUT_SECONDS = 60


def fetch_entries(
    ids: Sequence[str],
    out: Path | str,
    cache: Path | None = None,
    on_progress: Progress | None = None,
    pdb_url: str = PDB_URL,
    emdb_url: str = EMDB_URL,
) -> list[Path]:
    """Download entries, or take them from the cache.

    Parameters
    ----------
    ids : PDB identifiers (``4V5D``: coordinates as mmCIF) and EMDB identifiers (``EMD-1997``: main map and header)
    out : folder for the files
    cache : folder where downloads are kept; default: the variable TRIPTYCH_CACHE, or the platform's place for caches
    on_progress : called with the number of files that are there and of all files
    pdb_url, emdb_url : mirrors

    Returns
    -------
    The files, in the order of the identifiers; a map comes before its header.
    """
    out, cache = Path(out), cache_folder() if cache is None else cache
    addresses = [address for entry in ids for address in _addresses(entry.strip(), pdb_url, emdb_url)]
    paths = []
    for done, address in enumerate(addresses):
        name = address.rsplit("/", 1)[1]
        if not (cache / name).is_file():
            _download(address, cache / name)
        with output_file(out / name) as part:
            shutil.copyfile(cache / name, part)
        paths.append(out / name)
        if on_progress:
            on_progress(done + 1, len(addresses))
    return paths


def cache_folder() -> Path:
    """Where downloads are kept."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "triptych"
    if local := os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME"):
        return Path(local) / "triptych"
    return Path.home() / ".cache" / "triptych"


def _addresses(entry: str, pdb_url: str, emdb_url: str) -> list[str]:
    if re.fullmatch(r"[0-9][0-9A-Za-z]{3}", entry):
        return [f"{pdb_url}/{entry.lower()}.cif.gz"]
    if match := re.fullmatch(r"EMD-(\d{4,6})", entry, re.IGNORECASE):
        number = match[1]
        return [f"{emdb_url}/EMD-{number}/map/emd_{number}.map.gz", f"{emdb_url}/EMD-{number}/header/emd-{number}.xml"]
    raise InputError(f"{entry!r} is no identifier of an entry: give one of the PDB, such as 4V5D, or of the EMDB, such as EMD-1997")


def _download(address: str, path: Path) -> None:
    logger.info("downloading %s", address)
    try:
        # the addresses are made above: https, or what the caller gave
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer, output_file(path) as part:
            with part.open("wb") as file:
                shutil.copyfileobj(answer, file)
            length = answer.headers.get("Content-Length")
            if length is not None and part.stat().st_size != int(length):
                raise InputError(f"{address} sent {part.stat().st_size} of {length} bytes: the connection broke, try again")
            with part.open("rb") as file:
                start = file.read(2)
            if path.suffix == ".gz" and start != b"\x1f\x8b":
                raise InputError(f"{address} sent something else than a gzip file, perhaps a log-in page: look at it in a browser")
    except urllib.error.HTTPError as error:
        raise InputError(f"{address} answered {error.code} ({error.reason}): check the identifier of the entry, or try later") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{address} cannot be reached ({reason}): go online, or put the file into {path.parent}") from None
