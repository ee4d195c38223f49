// pool.c - the CPU's threads: parts of a job are claimed one by one, by workers and by the caller.
//
// A worker that the machine gives no time costs nothing: the caller claims its parts too, and waits
// only for parts that somebody is running. (libgomp's barriers wait for every thread: on a busy
// machine, and after fork, for ever.) Workers spin for some microseconds after a job, then sleep.
//
// `job` holds what a claim must see at once: the job's number (32 bits), its parts and the next
// part (16 bits each). Whoever moves `next` on by one owns that part, and the job stays what it is
// until all parts are done: so fn and arg are read only after a claim.
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "mem.h"

enum { SPINS = 4000 };

struct rv_pool {
    _Atomic uint64_t job;
    _Atomic int done, sleepers;
    _Atomic bool quit;
    rv_team_fn *fn;
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int workers;
    pthread_t thread[];
};

static uint32_t number_of(uint64_t job) { return (uint32_t)(job >> 32); }
static int parts_of(uint64_t job) { return (int)(job >> 16 & 0xffff); }
static int next_of(uint64_t job) { return (int)(job & 0xffff); }

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// Runs parts of job `number` until none is left to claim.
static void work(rv_pool *p, uint32_t number) {
    uint64_t job = atomic_load(&p->job);
    while (number_of(job) == number && next_of(job) < parts_of(job)) {
        if (atomic_compare_exchange_weak(&p->job, &job, job + 1)) {
            p->fn(p->arg, next_of(job), parts_of(job));
            atomic_fetch_add(&p->done, 1);
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

static void *worker(void *arg) {
    rv_pool *p = arg;
    uint32_t seen = 0;
    while (await(p, &seen)) {
        work(p, seen);
    }
    return NULL;
}

rv_pool *rv_pool_new(int threads) {
    rv_pool *p = calloc(1, sizeof *p + (size_t)threads * sizeof(pthread_t));
    if (!p) {
        return NULL;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    while (p->workers < threads - 1 &&
           pthread_create(&p->thread[p->workers], NULL, worker, p) == 0) {
        p->workers++;
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
            pthread_join(p->thread[i], NULL);
        }
        pthread_cond_destroy(&p->wake);
        pthread_mutex_destroy(&p->lock);
        free(p);
    }
}

void rv_pool_run(rv_pool *p, int parts, rv_team_fn *fn, void *arg) {
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->done, 0);
    uint32_t number = number_of(atomic_load(&p->job)) + 1;
    atomic_store(&p->job, (uint64_t)number << 32 | (uint64_t)parts << 16);
    if (atomic_load(&p->sleepers) > 0) {
        wake_all(p);
    }
    work(p, number);
    for (int i = 0; atomic_load(&p->done) < parts; i++) {
        if (i < SPINS) {
            relax();
        } else {
            sched_yield();
        }
    }
}
