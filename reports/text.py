"""How numbers and names are written: plain Unicode once, then LaTeX, Markdown or mathtext from it."""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MISSING = "–"
THIN = "\u202f"  # narrow no-break space between groups of three digits

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PLAIN = {ord(high): low for low, high in zip("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True)}
_GREEK = dict(
    zip(
        "αβγδεζηθκλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi "
        "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),
        strict=True,
    )
)
_LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "[": "{[}",  # at the start of a row it, or a star, would belong to the end of the last one
    "*": "{*}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    THIN: r"\,",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "ℓ": r"$\ell$",
    "∞": r"$\infty$",
    "²": "$^2$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "–": "--",
    "…": r"\dots{}",
    **{letter: f"$\\{name}$" for letter, name in _GREEK.items()},
}
_LETTER = f"[A-Za-z{''.join(_GREEK)}]"
SYMBOL = (
    rf"(?<!\w)({_LETTER})_([A-Za-z0-9_]+)(?!\w)"  # one letter with a subscript: η_LL, but not lower_steps
)
_ALONE = re.compile(rf"(= )?({_LETTER})")  # a whole text that is one letter: a symbol, perhaps of a tie
_GREEK_NAME = re.compile(rf"(?<![^\W_])({'|'.join(_GREEK.values())})(?![^\W_])")
_BY_NAME = {name: letter for letter, name in _GREEK.items()}
# What pdfLaTeX in its old encoding does not know of Latin-1 and Latin Extended-A.
_UNKNOWN = "ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲų"
_TOKEN = re.compile(rf"{SYMBOL}|([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)|(.)", re.DOTALL)


def score(value: float, digits: int) -> str:
    """A score with a column's number of decimals; one too small to be seen with them as a power of ten."""
    if 0 < abs(value) < 10**-digits:
        return parameter(value)
    return f"{value:.{digits}f}" if math.isfinite(value) else "∞" if value == math.inf else MISSING


def decimals(values: Iterable[float]) -> int:
    """Decimals that give a column's largest finite value four digits: two for accuracies in per cent."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return 2 if largest == 0 else min(max(2, 3 - math.floor(math.log10(largest))), 9)


def spread(mean: float, std: float, digits: int) -> str:
    """Mean ± standard deviation; the mean alone where one trial gives no deviation."""
    return f"{score(mean, digits)} ± {score(std, digits)}" if math.isfinite(std) else score(mean, digits)


def count(value: float) -> str:
    """A count in groups of three digits, one decimal only where a mean is not whole."""
    if not math.isfinite(value):
        return MISSING
    whole = abs(value - round(value)) < 1e-9 or abs(value) >= 1000
    return (f"{value:,.0f}" if whole else f"{value:,.1f}").replace(",", THIN)


def seconds(value: float) -> str:
    """Seconds to about three digits."""
    return MISSING if not math.isfinite(value) else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def parameter(value: Any) -> str:
    """A parameter's value: counts whole, all else to three digits, powers of ten where that is shorter."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return MISSING if value is None else str(value)
    if not math.isfinite(value):
        return MISSING
    if value == round(value) and abs(value) < 1e5:
        return count(value)
    if 1e-2 <= abs(value) < 999.5:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}×{_ten_to(int(exponent))}"


def scientific(value: float) -> str:
    """A large number to three digits as a power of ten."""
    if not math.isfinite(value):
        return "∞" if value == math.inf else MISSING
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}×{_ten_to(int(exponent))}"


def bound(value: float) -> str:
    """The end of a range: powers of ten as such."""
    exponent = math.log10(value) if value > 0 else 0.5
    far = exponent >= 3 or exponent <= -2
    return _ten_to(round(exponent)) if far and abs(exponent - round(exponent)) < 1e-12 else parameter(value)


def ticks(values: Sequence[float]) -> list[str]:
    """Ticks of a log axis, at 1, 2 or 5 times a power of ten: plain, or all of them as powers."""
    if all(0.1 <= value <= 10_000 for value in values):
        return [f"{value:g}" for value in values]
    parts = [f"{value:.0e}".split("e") for value in values]
    return [f"{'' if digit == '1' else digit + '×'}{_ten_to(int(exponent))}" for digit, exponent in parts]


def _ten_to(exponent: int) -> str:
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def greek(symbol: str) -> str:
    """A symbol with its Greek letters: alpha is α, eta_LL is η_LL."""
    return _GREEK_NAME.sub(lambda match: _BY_NAME[match[1]], symbol)


def plain(words: str, most: int) -> str:
    """`words` in one line of at most `most` letters; what is not to be seen, or moves others, as a �."""
    line = " ".join(words.split())
    seen = "".join("�" if unicodedata.category(letter)[0] == "C" else letter for letter in line)
    return seen if len(seen) <= most else seen[: most - 1] + "…"


def latex(text: str) -> str:
    """`text` for a LaTeX document: specials escaped; Greek, powers and subscripted symbols in math mode; what
    pdfLaTeX has no letter for as its code point."""
    if alone := _ALONE.fullmatch(text):
        return f"{alone[1] or ''}${_mathematical(alone[2])}$"
    return _TOKEN.sub(_latex_token, text)


def _latex_token(match: re.Match[str]) -> str:
    base, subscript, power, other = match.groups()
    if base:
        inner = subscript.replace("_", r"\_")
        return f"${_mathematical(base)}_{{\\mathrm{{{inner}}}}}$"
    if power:
        return f"$^{{{power.translate(_PLAIN)}}}$"
    return _LATEX.get(other) or _letter(other)


def _letter(letter: str) -> str:
    known = letter.isascii() or ("À" <= letter <= "ž" and letter not in _UNKNOWN)
    return letter if known else f"{{[}}U+{ord(letter):04X}]"


def _mathematical(letter: str) -> str:
    return "\\" + _GREEK[letter] if letter in _GREEK else letter


def mathtext(text: str) -> str:
    """`text` for a matplotlib label: dollars are dollars, letters that are symbols are set as such."""
    if alone := _ALONE.fullmatch(text):
        return f"{alone[1] or ''}${_mathematical(alone[2])}$"
    escaped = text.replace("$", r"\$")
    return re.sub(rf"(\\?){SYMBOL}", _mathtext_symbol, escaped)


def _mathtext_symbol(match: re.Match[str]) -> str:
    before, base, subscript = match.groups()
    apart = f"{before} " if before else ""  # else the backslash would make the dollar a letter
    return f"{apart}${_mathematical(base)}_{{\\mathrm{{{subscript.replace('_', ' ')}}}}}$"


def markdown(text: str) -> str:
    """`text` inside a Markdown table cell."""
    return re.sub(r"([\\|*`])", r"\\\1", text).replace("<", "&lt;").replace("\n", " ")
