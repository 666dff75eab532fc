"""Chatter is kept off the terminal, and told where it helps."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import pytest

from tf_sphereface.export.quiet import quiet


def test_nothing_comes_through_and_everything_is_restored(capfd):
    streams, disabled = (sys.stdout, sys.stderr), logging.root.manager.disable
    with quiet():
        print("python")
        os.write(1, b"descriptor 1\n")
        os.write(2, b"descriptor 2\n")
        logging.getLogger("absl").warning("a log line")
        warnings.warn("a warning", UserWarning, stacklevel=1)
    assert (sys.stdout, sys.stderr) == streams
    assert logging.root.manager.disable == disabled
    print("after")
    os.write(2, b"after\n")
    output = capfd.readouterr()
    assert output.out == "after\n"
    assert output.err == "after\n"


@quiet()
def broken_converter():
    os.write(2, b"the reason, from C++\n")
    raise RuntimeError("broken")


def test_an_error_brings_the_chatter_along(capfd):
    with pytest.raises(RuntimeError, match="broken") as caught:
        broken_converter()
    assert "the reason, from C++" in caught.value.__notes__[0]
    assert capfd.readouterr().err == ""


def test_a_log_handler_made_inside_works_afterwards(capfd):
    logger = logging.getLogger("made_inside")
    logger.propagate = False
    with quiet():
        handler = logging.StreamHandler()
        logger.addHandler(handler)
        logger.warning("unheard")
    logger.warning("heard")
    logger.removeHandler(handler)
    assert capfd.readouterr().err == "heard\n"
