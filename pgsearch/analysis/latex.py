r"""Text as LaTeX that plain pdflatex typesets: signs escaped, the paper's factors as maths.

OT1, the encoding of a document without further packages, has no glyph for `<` or Cyrillic, and
makes ligatures of `--`; so each character is one that is known to work, or shows as its code.
"""

import re
import unicodedata
from typing import Final

from pgsearch.untrusted import visible

_GREEK_NAMES: Final = (
    "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi - pi rho "
    "varsigma sigma tau upsilon varphi chi psi omega"
)
_MATHS: Final = {
    **{chr(ord("α") + i): f"\\{name}" for i, name in enumerate(_GREEK_NAMES.split(" "))},
    **{sign: f"^{plain}" for sign, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True)},
    **{sign: f"_{plain}" for sign, plain in zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True)},
    **{sign: sign for sign in "<>|"},
    "ο": "o",
    "µ": r"\mu",
    "Γ": r"\Gamma",
    "Δ": r"\Delta",
    "Θ": r"\Theta",
    "Λ": r"\Lambda",
    "Σ": r"\Sigma",
    "Φ": r"\Phi",
    "Ψ": r"\Psi",
    "Ω": r"\Omega",
    "±": r"\pm",
    "−": "-",
    "×": r"\times",
    "·": r"\cdot",
    "≤": r"\leq",
    "≥": r"\geq",
    "≠": r"\neq",
    "≈": r"\approx",
    "∞": r"\infty",
    "→": r"\to",
    "←": r"\leftarrow",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "°": r"^\circ",
}
_TEXT: Final = {
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # at the start of a row they would be its options
    "\\": r"\textbackslash{}",
    "^": r"\^{}",
    "~": r"\~{}",
    '"': r"\textquotedblright{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "…": r"\ldots{}",
    "§": r"\S{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
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
    "\u00a0": "~",
}
_ACCENTS: Final = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0323": "d",
    "\u0327": "c",
    "\u0331": "b",
}
_SIGNS: Final = {"⁺": "+", "⁻": "-", "+": "+", "-": "-"}
_FACTOR: Final = re.compile(r"λ([0-9₀₁₂])([FA]?)([+\-⁺⁻]?)")
_LIGATURE: Final = re.compile(r"(?<=-)-|(?<=`)`|(?<=')'|(?<=,),|(?<=[!?])`")


def latex_text(text: str) -> str:
    r"""Return a text as LaTeX, such as `PR(λ1A-)` as `PR($\lambda_{1A}^{-}$)`."""
    parts = []
    end = 0
    line = unicodedata.normalize("NFC", visible(text))
    line = re.sub(r"^-(?=\d)", "−", line)  # the sign of a number, not a hyphen
    for factor in _FACTOR.finditer(line):
        parts += [_plain(line[end : factor.start()]), _factor(*factor.groups())]
        end = factor.end()
    return "".join([*parts, _plain(line[end:])])


def _factor(index: str, mode: str, sign: str) -> str:
    below = f"{unicodedata.digit(index)}{mode}"
    above = f"^{{{_SIGNS[sign]}}}" if sign else ""
    return f"$\\lambda_{{{below}}}{above}$"


def _plain(text: str) -> str:
    """Return a text without factors; an empty group parts what would join to one glyph."""
    parts = []
    end = 0
    for ligature in _LIGATURE.finditer(text):
        parts.append("".join(map(_character, text[end : ligature.start()])))
        end = ligature.start()
    return "{}".join([*parts, "".join(map(_character, text[end:]))])


def _character(character: str) -> str:
    if character in _TEXT:
        return _TEXT[character]
    if character in _MATHS:
        return f"${_MATHS[character]}$"
    if character.isascii():
        return character
    decomposed = unicodedata.normalize("NFD", character)
    base, mark = decomposed[:1], decomposed[1:]
    if base.isascii() and mark in _ACCENTS:
        return f"\\{_ACCENTS[mark]}{{{base}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
