// The CPU's threads: every unit of a job runs once, on a thread whose number is its own.
#define _POSIX_C_SOURCE 200809L // nanosleep, fork
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cpu/pool.h"

enum { MOST_THREADS = 5, MOST_UNITS = 200 };

typedef struct {
    int threads, units, least, most;
    int ran[MOST_UNITS]; // by whoever claimed them: no two write the same
    atomic_int busy[MOST_THREADS];
    atomic_int wrong, ranges;
} job;

static void run_units(void *arg, int64_t lo, int64_t hi, int who) {
    job *j = arg;
    const bool whole = lo == 0 && hi == j->units;
    if (who < 0 || who >= j->threads || atomic_exchange(&j->busy[who], 1)) {
        atomic_fetch_add(&j->wrong, 1); // somebody else has this number
        return;
    }
    if (lo >= hi || hi > j->units || (hi - lo < j->least && !whole) ||
        hi - lo >= j->most + j->least) {
        atomic_fetch_add(&j->wrong, 1);
    }
    for (int64_t i = lo; i < hi; i++) {
        j->ran[i]++;
    }
    atomic_fetch_add(&j->ranges, 1);
    atomic_store(&j->busy[who], 0);
}

static void check_job(rv_pool *p, int threads, int units, int least, int most) {
    job j = {.threads = threads, .units = units, .least = least, .most = most};
    rv_pool_run(p, units, least, most, run_units, &j);
    assert_int_equal(atomic_load(&j.wrong), 0);
    for (int i = 0; i < units; i++) {
        assert_int_equal(j.ran[i], 1);
    }
    int fewest = (units + least + most - 2) / (least + most - 1);
    assert_in_range(atomic_load(&j.ranges), units ? fewest : 0, units);
}

static void many_small_jobs(void **state) {
    (void)state;
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        rv_pool *p = rv_pool_new(threads);
        assert_non_null(p);
        for (int i = 0; i < 4000; i++) {
            int least = 1 + i % 7;
            check_job(p, threads, i % (MOST_UNITS + 1), least, least + i % 11);
        }
        rv_pool_free(p);
    }
}

// Workers that went to sleep come back.
static void jobs_after_a_rest(void **state) {
    (void)state;
    rv_pool *p = rv_pool_new(3);
    for (int i = 0; i < 20; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        check_job(p, 3, 40, 1, 4);
    }
    rv_pool_free(p);
}

static void count_units(void *arg, int64_t lo, int64_t hi, int who) {
    (void)who;
    atomic_fetch_add((atomic_int *)arg, (int)(hi - lo));
}

static void least_and_most(void **state) {
    (void)state;
    rv_pool *p = rv_pool_new(2);
    atomic_int n = 0;
    rv_pool_run(p, RV_POOL_UNITS, 1, 100, count_units, &n);
    assert_int_equal(atomic_load(&n), RV_POOL_UNITS);
    check_job(p, 2, 0, 1, 1);
    check_job(p, 2, 1, 1, 1);
    check_job(p, 2, MOST_UNITS, MOST_UNITS, MOST_UNITS);
    rv_pool_free(p);
}

// A forked child has no workers: the caller runs everything.
static void a_forked_child(void **state) {
    (void)state;
    rv_pool *p = rv_pool_new(2);
    check_job(p, 2, 100, 1, 3);
    pid_t child = fork();
    if (child == 0) {
        job j = {.threads = 1, .units = 100, .least = 1, .most = 3};
        rv_pool_run(p, 100, 1, 3, run_units, &j);
        int sum = 0;
        for (int i = 0; i < 100; i++) {
            sum += j.ran[i];
        }
        _exit(sum == 100 && atomic_load(&j.wrong) == 0 ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    rv_pool_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_small_jobs),
        cmocka_unit_test(jobs_after_a_rest),
        cmocka_unit_test(least_and_most),
        cmocka_unit_test(a_forked_child),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
