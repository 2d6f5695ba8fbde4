"""Carbon intensity of electricity: a small offline table, its year and source beside every number."""

from __future__ import annotations

from dataclasses import dataclass

YEAR = 2023
SOURCE = "CodeCarbon 3's bundled country table (Our World in Data), 2023"


@dataclass(frozen=True)
class CarbonIntensity:
    """Grams of CO2 equivalent per kWh, with year and source."""

    name: str
    grams_per_kwh: float
    year: int
    source: str


INTENSITIES = {
    name: CarbonIntensity(name, grams, YEAR, source)
    for name, grams, source in [
        ("world", 475.0, "CodeCarbon 3's fallback for an unknown place"),
        ("USA", 369.5, SOURCE),
        ("DEU", 381.0, SOURCE),
        ("CHN", 582.3, SOURCE),
        ("FRA", 56.0, SOURCE),
        ("SWE", 40.7, SOURCE),
    ]
}


def intensity(name: str = "world") -> CarbonIntensity:
    """Carbon intensity of electricity in `name`, a country code or "world"; raises `ValueError` for an unknown one."""
    if name not in INTENSITIES:
        raise ValueError(f"no carbon intensity for {name!r}; known: {', '.join(INTENSITIES)}")
    return INTENSITIES[name]
