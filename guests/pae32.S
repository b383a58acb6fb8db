/*
 * pae32: 32-bit protected mode with PAE paging, on page tables that the host has
 * built.  Entry state, registers and exit protocol: measure.h.
 */
#include "paged32.h"
