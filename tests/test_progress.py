"""Bars in a terminal; elsewhere nothing but a line of the log now and then."""

import io
import logging

import pytest

from latte_ms import progress as module
from latte_ms.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar() -> None:
    file = Terminal()
    assert list(progress(range(3), desc="steps", file=file)) == [0, 1, 2]
    assert "steps: 100%" in file.getvalue()
    silent = Terminal()
    list(progress(range(3), disable=True, file=silent))
    assert silent.getvalue() == ""


def test_nothing_is_printed_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress(range(3), desc="steps")) == [0, 1, 2]
        with progress(total=2) as bar:
            bar.update()
            bar.set_postfix(loss=1)
    captured = capsys.readouterr()
    assert (captured.out, captured.err, caplog.messages) == ("", "", [])
    list(progress(range(3), desc="steps", disable=False))
    assert "steps: 100%" in capsys.readouterr().err


def test_long_work_is_logged_with_its_rate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    with caplog.at_level(logging.INFO), progress(total=4, desc="training", unit="step") as bar:
        for _ in range(4):
            bar.update()
    assert caplog.messages[-1].startswith("training: 4 of 4 in 00:00")
    assert "step/s" in caplog.messages[-1]
