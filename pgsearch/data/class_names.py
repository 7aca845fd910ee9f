"""What a class may be called: the one rule of every data set.

Names end up on terminals, in figures, tables and columns of files. Odd ones are kept as they are;
those that do not show, or hide what others show, are refused.
"""

import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from pgsearch.untrusted import has_unseen, shown

MAX_LENGTH: Final = 200
MAX_CLASSES: Final = 100_000
RULE: Final = f"a class has a name of 1 to {MAX_LENGTH} characters that show; rename it"


def class_name_problems(names: Iterable[tuple[str, Any]]) -> list[str]:
    """One line for each name that no class may have.

    Args:
        names: of all classes of a data set, each with the place where it was found, in words.
    """
    problems = []
    found: dict[str, tuple[str, str]] = {}
    for place, name in names:
        if problem := _problem_of(name):
            problems.append(f"{place}: the class name {shown(name)} {problem}; {RULE}")
            continue
        normal = unicodedata.normalize("NFC", name)
        if normal in found:
            first_place, first = found[normal]
            same = "is there before" if first == name else f"looks like {first!a}"
            problems.append(
                f"{place}: the class name {name!a} {same} ({first_place}); each class has a "
                f"name of its own; rename one"
            )
        found.setdefault(normal, (place, name))
    if len(found) > MAX_CLASSES:
        problems.append(
            f"{next(iter(found.values()))[0]}: is one of {len(found):,} classes; a data set has at "
            f"most {MAX_CLASSES:,}; remove the others"
        )
    return problems


def _problem_of(name: Any) -> str | None:
    if not isinstance(name, str):
        return "is no text"
    if has_unseen(name):
        return "has characters that do not show"
    if all(unicodedata.category(character) in ("Cf", "Zs") for character in name):
        return "is blank"
    if len(name) > MAX_LENGTH:
        return "is too long"
    return None
