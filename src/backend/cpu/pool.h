// pool.h - threads that share out the parts of a job.
#pragma once

#include <stdint.h>

typedef struct rv_pool rv_pool;

/// Runs part `part` of `parts`.
typedef void rv_team_fn(void *arg, int part, int parts);

/// Starts `threads` - 1 workers (fewer where the system gives no more); NULL when out of memory.
rv_pool *rv_pool_new(int threads);
/// Ends and joins the workers; NULL is fine.
void rv_pool_free(rv_pool *p);

/// Runs fn(arg, 0 .. parts - 1, parts), each part once, on the workers and the caller; returns when
/// all are done. One job at a time; `parts` up to 65535. In a forked child the caller does it all.
void rv_pool_run(rv_pool *p, int parts, rv_team_fn *fn, void *arg);
