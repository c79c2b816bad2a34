"""Which part of the head an electrode lies over, by its name in the 10-20 system and its 10-10 and 10-5 extensions."""

import re
from collections.abc import Sequence

OTHER = "other"
PREFIXES: dict[str, tuple[str, ...]] = {
    "frontal": ("N", "Fp", "AFp", "AF", "AFF", "F", "FFC", "FFT"),
    "central": ("FC", "FCC", "C", "CCP", "CP"),
    "temporal": ("FT", "FTT", "T", "TTP", "TP"),
    "parietal": ("TPP", "CPP", "P", "PPO"),
    "occipital": ("PO", "POO", "O", "OI", "I"),
}
"""Region to the letters that its electrodes' names begin with. POz and the like count as occipital; the earlobes and
mastoids (A1, M2) are references, so `other`."""

_REGION_OF = {prefix.lower(): region for region, prefixes in PREFIXES.items() for prefix in prefixes}
_NAME = re.compile(r"(?P<prefix>[a-z]+?)(?P<place>z|\d+)h?", re.IGNORECASE)
_LARGEST = 10


def region_of(channels: Sequence[str]) -> tuple[str, ...]:
    """Return the region of each electrode; upper and lower case are alike.

    A number above 10 after letters of the 10-20 system (`C17`) shows that the cap counts its electrodes in its own way,
    as BioSemi's do. Then its `C3` is not C3 either, and all of its electrodes are `other`.
    """
    found = []
    for name in channels:
        match = _NAME.fullmatch(name.strip())
        region = _REGION_OF.get(match["prefix"].lower()) if match else None
        if match and region and match["place"].isdigit() and int(match["place"]) > _LARGEST:
            return (OTHER,) * len(channels)
        found.append(region or OTHER)
    return tuple(found)


def regions_of(channels: Sequence[str]) -> dict[str, list[int]]:
    """Return the regions that have an electrode, front to back and `other` last, each with its electrodes' rows."""
    region_C = region_of(channels)
    rows = {region: [i for i, name in enumerate(region_C) if name == region] for region in (*PREFIXES, OTHER)}
    return {region: found for region, found in rows.items() if found}
