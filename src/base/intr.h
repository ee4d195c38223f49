// intr.h - the one flag that Ctrl-C sets and long C loops poll.
#pragma once

#include <signal.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Set (to 1) by the host's SIGINT handler; cleared by whoever handled the stop.
extern volatile sig_atomic_t rv_intr_flag;

/// True once Ctrl-C came: the caller returns RV_EINTERRUPT at its next safe point.
static inline bool rv_interrupted(void) { return rv_intr_flag != 0; }

#ifdef __cplusplus
}
#endif
