"""The serial port, asked as Linux' 8250 driver asks it."""

from __future__ import annotations

import pytest

from kvmharness.guest.uart import (
    DATA,
    FCR_FIFO,
    IER,
    IER_THRI,
    IIR_FCR,
    IIR_FIFO,
    IIR_NONE,
    IIR_THRI,
    LCR,
    LCR_DLAB,
    LSR,
    LSR_EMPTY,
    SCRATCH,
    Uart,
)


@pytest.fixture
def sent() -> list[bytes]:
    return []


@pytest.fixture
def uart(sent: list[bytes]) -> Uart:
    return Uart(sent.append)


def test_bytes_go_out_at_once_and_it_is_always_ready(uart: Uart, sent: list[bytes]) -> None:
    for value in b"abc":
        uart.write(DATA, value)
        assert uart.read(LSR) & LSR_EMPTY == LSR_EMPTY
    assert b"".join(sent) == b"abc"
    assert not uart.interrupt  # nobody asked


def test_it_says_once_that_it_is_ready_and_again_after_each_byte(uart: Uart) -> None:
    uart.write(IER, IER_THRI)
    assert uart.interrupt
    assert uart.read(IIR_FCR) == IIR_THRI
    assert uart.read(IIR_FCR) == IIR_NONE
    assert not uart.interrupt
    uart.write(DATA, 0)
    assert uart.interrupt
    # Linux looks for ports that do not say so when they are asked a second time.
    uart.write(IER, 0)
    assert not uart.interrupt
    uart.write(IER, IER_THRI)
    assert uart.read(IIR_FCR) == IIR_THRI


def test_with_its_fifo_on_it_is_a_16550a(uart: Uart) -> None:
    uart.write(IIR_FCR, FCR_FIFO)
    assert uart.read(IIR_FCR) == IIR_NONE | IIR_FIFO


def test_the_divisor_is_kept_apart_from_the_data(uart: Uart, sent: list[bytes]) -> None:
    uart.write(LCR, LCR_DLAB)
    uart.write(DATA, 12)
    uart.write(IER, 34)
    assert (uart.read(DATA), uart.read(IER)) == (12, 34)
    uart.write(LCR, 0)
    assert (uart.read(DATA), uart.read(IER)) == (0, 0)
    assert sent == []


def test_of_the_interrupts_only_those_that_exist_are_kept(uart: Uart) -> None:
    uart.write(IER, 0xFF)
    assert uart.read(IER) == 0x0F
    uart.write(SCRATCH, 0x5A)
    assert uart.read(SCRATCH) == 0x5A
