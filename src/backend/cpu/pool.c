// pool.c - the CPU's threads: ranges of a job's units are claimed by workers and by the caller.
//
// A claim takes a fair share of what is left, in bounds: long runs that stream from memory first,
// short ones last, so that threads end together however fast each of them is. A worker that the
// machine gives no time costs nothing: the caller claims its units too, and waits only for ranges
// that somebody is running. (libgomp's barriers wait for every thread: on a busy machine, and after
// fork, for ever.) Workers spin for some microseconds after a job, then sleep.
//
// `job` holds what a claim must see at once: the job's number (32 bits), its units and the next
// unit (16 bits each). Whoever moves `next` on owns what lies between, and the job stays what it is
// until all units are done: so fn and arg are read only after a claim.
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "mem.h"

enum {
    SPINS = 4000,
    YIELD = 64 // spins between two offers of the processor
};

typedef struct {
    rv_pool *pool;
    int id;
    pthread_t thread;
} worker;

struct rv_pool {
    _Atomic uint64_t job;
    _Atomic int least, most; // units of a claim
    _Atomic int done, sleepers;
    _Atomic bool quit;
    rv_range_fn *fn;
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int workers;
    worker worker[];
};

static uint32_t number_of(uint64_t job) { return (uint32_t)(job >> 32); }
static int units_of(uint64_t job) { return (int)(job >> 16 & 0xffff); }
static int next_of(uint64_t job) { return (int)(job & 0xffff); }

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// What a claim takes of `left` units.
static int claim(rv_pool *p, int left) {
    const int least = atomic_load_explicit(&p->least, memory_order_relaxed);
    const int most = atomic_load_explicit(&p->most, memory_order_relaxed);
    int take = (left + p->workers) / (p->workers + 1);
    take = take < most ? take : most;
    take = take > least ? take : least;
    return left - take < least ? left : take; // no crumbs
}

// Runs ranges of job `number` until none is left to claim.
static void work(rv_pool *p, uint32_t number, int who) {
    uint64_t job = atomic_load(&p->job);
    while (number_of(job) == number && next_of(job) < units_of(job)) {
        int lo = next_of(job), take = claim(p, units_of(job) - lo);
        if (atomic_compare_exchange_weak(&p->job, &job, job + (uint64_t)take)) {
            p->fn(p->arg, lo, lo + take, who);
            atomic_fetch_add(&p->done, take);
            job = atomic_load(&p->job);
        }
    }
}

// Waits for a job that is not `seen`; false when the pool ends.
static bool await(rv_pool *p, uint32_t *seen) {
    for (int i = 0; i < SPINS; i++) {
        if (number_of(atomic_load_explicit(&p->job, memory_order_relaxed)) != *seen) {
            break;
        }
        relax();
    }
    if (number_of(atomic_load(&p->job)) == *seen) {
        pthread_mutex_lock(&p->lock);
        atomic_fetch_add(&p->sleepers, 1);
        while (number_of(atomic_load(&p->job)) == *seen && !atomic_load(&p->quit)) {
            pthread_cond_wait(&p->wake, &p->lock);
        }
        atomic_fetch_sub(&p->sleepers, 1);
        pthread_mutex_unlock(&p->lock);
    }
    *seen = number_of(atomic_load(&p->job));
    return !atomic_load(&p->quit);
}

static void *run_worker(void *arg) {
    const worker *w = arg;
    uint32_t seen = 0;
    while (await(w->pool, &seen)) {
        work(w->pool, seen, w->id);
    }
    return NULL;
}

rv_pool *rv_pool_new(int threads) {
    rv_pool *p = calloc(1, sizeof *p + (size_t)threads * sizeof(worker));
    if (!p) {
        return NULL;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (bool more = true; more && p->workers < threads - 1; p->workers += more) {
        worker *w = &p->worker[p->workers];
        *w = (worker){.pool = p, .id = p->workers + 1};
        more = pthread_create(&w->thread, NULL, run_worker, w) == 0;
    }
    return p;
}

static void wake_all(rv_pool *p) {
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void rv_pool_free(rv_pool *p) {
    if (p) {
        atomic_store(&p->quit, true);
        atomic_fetch_add(&p->job, (uint64_t)1 << 32); // nobody spins on
        wake_all(p);
        for (int i = 0; i < p->workers; i++) {
            pthread_join(p->worker[i].thread, NULL);
        }
        pthread_cond_destroy(&p->wake);
        pthread_mutex_destroy(&p->lock);
        free(p);
    }
}

// Spins while a range is short; then offers the processor too, which its owner may be waiting for.
static void await_done(rv_pool *p, int units) {
    for (int i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < units; i++) {
        relax();
        if (i >= SPINS) {
            sched_yield();
            i -= YIELD;
        }
    }
}

void rv_pool_run(rv_pool *p, int units, int least, int most, rv_range_fn *fn, void *arg) {
    p->fn = fn;
    p->arg = arg;
    atomic_store_explicit(&p->least, least, memory_order_relaxed);
    atomic_store_explicit(&p->most, most, memory_order_relaxed);
    atomic_store(&p->done, 0);
    uint32_t number = number_of(atomic_load(&p->job)) + 1;
    atomic_store(&p->job, (uint64_t)number << 32 | (uint64_t)units << 16);
    if (atomic_load(&p->sleepers) > 0) {
        wake_all(p);
    }
    work(p, number, 0);
    await_done(p, units);
}
