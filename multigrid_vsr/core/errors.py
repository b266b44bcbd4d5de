"""Errors that a user can mend: each is one line that says what is wrong and what to do."""

from __future__ import annotations


def one_line(error: object, length: int = 200) -> str:
    """What an error says, on one line of at most so many characters."""
    return ' '.join(str(error).split())[:length]


class InputError(Exception):
    """Something that the user gave cannot be used. The commands print it without a traceback and exit with 1."""


def _is_number_text(value: object) -> bool:
    """Whether it is text in quotes that looks like a number."""
    return isinstance(value, str) and value.replace('.', '', 1).removeprefix('-').isdigit()


class OptionError(InputError):
    """An option that cannot be used: ``<dotted.option>: must <rule>, got <value>. <fix>``.

    Attributes:
        option: Its dotted name.
    """

    def __init__(self, option: str, rule: str, value: object, fix: str) -> None:
        self.option = option
        shown = 'nothing' if value is None else repr(value) if _is_number_text(value) else value
        super().__init__(f'{option}: must {rule}, got {shown}. {fix}')

    def __reduce__(self) -> tuple[type[InputError], tuple[object, ...]]:
        return InputError, self.args  # between processes its line is all that matters


class FrameError(InputError):
    """A frame that cannot be read: names the clip and the frame."""
