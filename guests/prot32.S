/*
 * prot32: 32-bit protected mode with 32-bit paging (CR4.PSE set, CR4.PAE clear), on
 * page tables that the host has built.  Entry state, registers and exit protocol:
 * measure.h.
 */
#include "paged32.h"
