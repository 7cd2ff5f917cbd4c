"""The look of a solver is a matter of its name: the same in every figure of every study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

# Okabe and Ito 2008, told apart with every common colour blindness; without their yellow, too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DIFFERENT = 168
"""Looks there are: the cycles differ in length."""

# Seven neighbours have seven colours: what papers compare stands together. New names go to the end.
_PLACES = """
stocbio amigo bsgm alset_dagger_det alset_dagger alset aid_cg_ws
soba saba sustain mrbo vrbo f2sa ttsa
srba spaba srmba ma_soba stocbio_neumann fsla bsa
aid_cg aid_fp aid_n aid_gd itd reverse bsa_ws
bsgm_ws bsgm_growing bsgm_decreasing alset_neumann amigo_cg stable stable_vr
f2ba acc_f2ba accbio bome v_pbgd meha bo_rep
sa_biadam vr_sa_biadam s_tfbo smb pzobo ba random_x
""".split()


@dataclass(frozen=True)
class Look:
    """Colour, line and marker."""

    colour: str
    line: str | tuple[int, tuple[float, ...]]
    marker: str


def look(solver: str, among: Sequence[str]) -> Look:
    """The look of `solver` in a study of the solvers `among`.

    A name that is not listed above takes one of the other looks by its checksum, or the next one where
    another unlisted name of the study, earlier in it, has that already."""
    place = _PLACES.index(solver) if solver in _PLACES else _others(among)[solver]
    return Look(_COLOURS[place % len(_COLOURS)], _LINES[place % len(_LINES)], _MARKERS[place % len(_MARKERS)])


def _others(among: Sequence[str]) -> dict[str, int]:
    free = DIFFERENT - len(_PLACES)
    taken: dict[str, int] = {}
    for name in (solver for solver in among if solver not in _PLACES):
        start = crc32(name.encode())
        tried = (len(_PLACES) + (start + step) % free for step in range(free))
        taken[name] = next((place for place in tried if place not in taken.values()), len(_PLACES))
    return taken
