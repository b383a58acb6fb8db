/*
 * real16: real mode, as a CPU runs after reset but for CR0.CD and CR0.NW, which
 * are clear.  CS = DS = ES = SS = 0 with base 0 and limit 0xffff, so an offset is
 * a guest-physical address.  Entry state, registers and exit protocol: measure.h.
 */
#include "shared.h"
#include "width32.h"

	.code16
	.text
#include "measure.h"
#include "ops.h"

	ops_of_every_mode measure
