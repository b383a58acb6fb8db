/* The text of both 32-bit guests that page: they differ in the tables the host builds. */
#include "shared.h"
#include "width32.h"
#define TOUCHES

.macro address label, register
	mov	$\label, \register
.endm

	.code32
	.text
#include "measure.h"
#include "ops.h"
#include "prove.h"

	ops_of_every_mode measure
	ops_of_paged_modes measure
	ops_of_every_mode prove
	ops_of_paged_modes prove
