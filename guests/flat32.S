/*
 * flat32: 32-bit protected mode without paging, flat segments.  Entry state,
 * registers and exit protocol: measure.h.
 */
#include "shared.h"
#include "width32.h"
#define TOUCHES

	.code32
	.text
#include "measure.h"
#include "ops.h"

	ops_of_every_mode measure
