// pool.h - threads that share out the units of a job.
#pragma once

#include <stdint.h>

typedef struct rv_pool rv_pool;

enum { RV_POOL_UNITS = 65535 }; // of a job, at the most

/// Runs units lo .. hi - 1 on thread `who`: 0, the caller, to threads - 1.
typedef void rv_range_fn(void *arg, int64_t lo, int64_t hi, int who);

/// Starts `threads` - 1 workers (fewer where the system gives no more); NULL when out of memory.
rv_pool *rv_pool_new(int threads);
/// Ends and joins the workers; NULL is fine.
void rv_pool_free(rv_pool *p);

/// Runs fn on ranges that together are [0, units), each once, on the workers and the caller;
/// returns when all are done. Ranges have `least` to `most` units (the last one or two need not);
/// which they are and who runs them is not fixed. One job at a time. In a forked child the caller
/// does it all.
void rv_pool_run(rv_pool *p, int units, int least, int most, rv_range_fn *fn, void *arg);
