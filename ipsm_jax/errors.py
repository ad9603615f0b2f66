"""What all errors about unusable input share: a message that can be printed, whatever the input held."""

from __future__ import annotations

import re

_LONGEST_WORD, _LONGEST = 400, 10_000  # characters


class InputError(ValueError):
    """Input that cannot be used.

    Messages quote what files hold. As text they have printable characters only, so that no file can send escape
    sequences to a terminal, and a word or text without end is cut.
    """

    def __str__(self) -> str:
        text = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in super().__str__())
        text = re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:200]}[...]{word[0][-50:]}", text)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1000]} [...] {text[-500:]}"
