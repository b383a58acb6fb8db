"""A 16550 serial port as Linux' 8250 driver wants it: what is written goes out at once.

Source: the 16550D's data sheet, section 8.  Nothing is ever received, and no line has a speed.
"""

from __future__ import annotations

from collections.abc import Callable

# Registers, by their offset from the port's base.
DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCRATCH = range(8)
LCR_DLAB = 0x80
IER_BITS, IER_THRI = 0x0F, 0x02
FCR_FIFO = 0x01
IIR_NONE, IIR_THRI, IIR_FIFO = 0x01, 0x02, 0xC0
LSR_EMPTY = 0x60  # the holding register and the shifter
MSR_READY = 0xB0  # carrier, data set ready, clear to send


class Uart:
    """A serial port of eight I/O ports; `sink` takes each byte that is sent."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._registers = bytearray(8)
        self._divisor = bytearray(2)
        self._fifo = False
        self._empty_pending = False

    @property
    def interrupt(self) -> bool:
        """Whether the port asks for an interrupt: it is ready to send and was told to say so."""
        return self._empty_pending and bool(self._registers[IER] & IER_THRI)

    def read(self, offset: int) -> int:
        """Return what reading the register at an offset gives."""
        if offset in (DATA, IER) and self._registers[LCR] & LCR_DLAB:
            return self._divisor[offset]
        if offset == DATA:
            return 0
        if offset == IIR_FCR:
            return self._identify()
        fixed = {LSR: LSR_EMPTY, MSR: MSR_READY}
        return fixed.get(offset, self._registers[offset])

    def _identify(self) -> int:
        fifo = IIR_FIFO if self._fifo else 0
        if not self.interrupt:
            return IIR_NONE | fifo
        self._empty_pending = False  # told once
        return IIR_THRI | fifo

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        if offset in (DATA, IER) and self._registers[LCR] & LCR_DLAB:
            self._divisor[offset] = value
        elif offset == DATA:
            self._sink(bytes([value]))
            self._empty_pending = True
        elif offset == IER:
            # A port that is ready says so as soon as it may.
            if value & ~self._registers[IER] & IER_THRI:
                self._empty_pending = True
            self._registers[IER] = value & IER_BITS
        elif offset == IIR_FCR:
            self._fifo = bool(value & FCR_FIFO)
        else:
            self._registers[offset] = value
