r"""Text, tables and numbers for LaTeX: ASCII only, so that it compiles under any input and font encoding.

Nothing is lost on the way: accented letters become accent commands, mathematical signs become math, and what neither
OT1 nor T1 fonts have is named by its code point, `[U+65E5]`. Widths are estimated from above with the metrics of
Computer Modern, so a table that is said to fit 221 pt has no overfull box there, nor in the narrower Times.
"""

from __future__ import annotations

import re
import unicodedata

from ebsim.report.display.text import plain

POINTS = 8.0
"""Font size of a table: \footnotesize of a 10 pt class."""

_ASCII = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': r"\texttt{\char34}",
    "[": "{[}",  # after a line end it would open an optional argument
    "]": "{]}",
    "*": "{*}",  # after a line end it would be part of the command
}
_SIGNS = {
    "–": "--",
    "—": "---",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "„": r"\texttt{\char34}",
    "…": r"\ldots{}",
    "•": r"$\bullet$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "±": r"$\pm$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "∑": r"$\sum$",
    "∂": r"$\partial$",
    "√": r"$\surd$",
    "∈": r"$\in$",
    "→": r"$\to$",
    "←": r"$\leftarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "↔": r"$\leftrightarrow$",
    "⇒": r"$\Rightarrow$",
    "°": r"$^{\circ}$",
    "µ": r"$\mu$",
    "¬": r"$\neg$",
    "§": r"\S{}",
    "¶": r"\P{}",
    "©": r"\copyright{}",
    "£": r"\pounds{}",
    "¡": r"\textexclamdown{}",
    "¿": r"\textquestiondown{}",
    "«": r"$\ll$",
    "»": r"$\gg$",
    "¦": r"$|$",
    "⁄": "/",
    " ": "~",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
    "ȷ": r"\j{}",
}
_ACCENTS = {
    "GRAVE ACCENT": "`",
    "ACUTE ACCENT": "'",
    "CIRCUMFLEX ACCENT": "^",
    "TILDE": "~",
    "DIAERESIS": '"',
    "MACRON": "=",
    "DOT ABOVE": ".",
    "BREVE": "u",
    "CARON": "v",
    "DOUBLE ACUTE ACCENT": "H",
    "RING ABOVE": "r",
    "CEDILLA": "c",
    "DOT BELOW": "d",
    "MACRON BELOW": "b",
}
_GREEK_AS_LATIN = {
    "Alpha": "A", "Beta": "B", "Epsilon": "E", "Zeta": "Z", "Eta": "H", "Iota": "I", "Kappa": "K", "Mu": "M",
    "Nu": "N", "Omicron": "O", "Rho": "P", "Tau": "T", "Chi": "X", "omicron": "o",
}  # fmt: skip
_EM = {  # widths in em of the wider of cmr8 and ecrm0800
    "!',.:;[]`il": 0.30, "fj": 0.33, "-": 0.36, "I()rst": 0.42, "cez": 0.48, "?": 0.51,
    ' "$*/0123456789\\ago{}J': 0.55, "kqvxy": 0.57, "Sbdhnpu": 0.60, "Z^~L": 0.67, "FEP": 0.73, "BCTwRAHNUVXYD": 0.82,
}  # fmt: skip
_WIDTHS = {char: width for chars, width in _EM.items() for char in chars}


def escape(text: object) -> str:
    """Text as ASCII LaTeX that prints as it is: no command, no ligature, no character lost."""
    out: list[str] = []
    for char in plain(text):
        piece = _piece(char)
        if out and piece in ("-", "'", "`", ",") and out[-1] == piece:
            out.append("{}")  # two hyphens are not a dash
        out.append(piece)
    return re.sub(r"(?<=[!?])`", "{}`", "".join(out))


def number(text: object) -> str:
    """`escape`, with minus signs as such: a number's hyphen is one."""
    return re.sub(r"(?<![\w.})\-])-(?=[\d.])", "$-$", escape(text))


def _piece(char: str) -> str:
    if char in _ASCII:
        return _ASCII[char]
    if " " <= char <= "~":
        return char
    if char in _SIGNS:
        return _SIGNS[char]
    return _greek(char) or _accented(char) or _compatible(char) or f"{{[}}U+{ord(char):04X}{{]}}"


def _greek(char: str) -> str:
    found = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(char, ""))
    if found is None or found[2] not in _GREEK:
        return ""
    name = "varsigma" if char == "ς" else found[2].lower().replace("lamda", "lambda")
    name = name if found[1] == "SMALL" else name.capitalize()
    return _GREEK_AS_LATIN.get(name, rf"$\{name}$")


_GREEK = {
    "ALPHA", "BETA", "GAMMA", "DELTA", "EPSILON", "ZETA", "ETA", "THETA", "IOTA", "KAPPA", "LAMDA", "MU", "NU", "XI",
    "OMICRON", "PI", "RHO", "SIGMA", "TAU", "UPSILON", "PHI", "CHI", "PSI", "OMEGA",
}  # fmt: skip


def _accented(char: str) -> str:
    """A letter with the accents that both font encodings can build; "" for any other."""
    parts = list(unicodedata.normalize("NFD", char))
    base, marks = parts[0], parts[1:]
    names = [unicodedata.name(mark, "").removeprefix("COMBINING ") for mark in marks]
    if not marks or not base.isascii() or any(name not in _ACCENTS for name in names):
        return ""
    out = {"i": r"\i{}", "j": r"\j{}"}.get(base, base)
    for name in names:
        out = rf"\{_ACCENTS[name]}{{{out}}}"
    return f"{{{out}}}"


def _compatible(char: str) -> str:
    """The compatible plain text of a character by Unicode (full width, ligatures, raised digits)."""
    kind, _, _ = unicodedata.decomposition(char).partition(" ")
    plainer = unicodedata.normalize("NFKC", char)
    if not kind.startswith("<") or any(char == one or ord(one) > 0x2100 for one in plainer):
        return ""
    inner = "".join(map(_piece, plainer))
    if "$" in inner or "\\" in inner:
        return inner
    return {"<super>": f"$^{{\\mathrm{{{inner}}}}}$", "<sub>": f"$_{{\\mathrm{{{inner}}}}}$"}.get(kind, inner)


def width(text: object, points: float = POINTS) -> float:
    """At most this many points wide once escaped and set."""
    total = 0.0
    for char in plain(text):
        piece = _piece(char)
        if piece.startswith("{[}U+"):
            total += 0.6 + 0.62 * len(piece)
        elif char in _WIDTHS:
            total += _WIDTHS[char]
        elif char in "\u2026\u21d2\u2194MW|#%m&+<=>@KOQ_G\u00b1\u00d7\u2192\u2190":
            total += 1.2
        else:
            total += max(1.1, 0.83 * sum(one.isalnum() for one in unicodedata.normalize("NFKC", char)))
    return points * total


def breakable(text: object, limit: float, points: float = POINTS) -> str:
    """Escaped text whose words wider than `limit` points may be broken anywhere."""
    words = []
    for word in plain(text).split(" "):
        wide = width(word, points) > limit
        words.append("\\hspace{0pt}".join(map(escape, word)) if wide else escape(word))
    return " ".join(words)
