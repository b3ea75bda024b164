"""A signal asks, the loop grants."""

import os
import signal
import threading

import pytest

from jaxvision.train.signals import GracefulStop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_raises_a_flag_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with GracefulStop() as stop:
        assert not stop.requested(1)
        os.kill(os.getpid(), number)
        assert stop.requested(2)
        assert stop.received == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_a_second_interrupt_is_a_keyboard_interrupt_and_a_second_sigterm_is_not():
    with GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_signals_keep_their_meaning():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def job():
        with GracefulStop() as stop:
            inside.append((signal.getsignal(signal.SIGTERM), stop.requested(1)))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert inside == [(before, False)]
