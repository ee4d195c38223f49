// guard_backend.h - the CPU's table behind mprotect: device memory that only entries can touch.
//
// A host that follows an rv_dev by itself, which a GPU would not forgive, dies of SIGSEGV here. Any
// test may run on this table instead of the CPU's; one context at a time, small sizes.
#pragma once

#include "backend.h"

const rv_backend *guard_backend(void);
