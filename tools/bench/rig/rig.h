/* rig.h: what the programs of the rig have in common: the clock, fakeusb's patterns and stamps, how results are
 * printed, and the operations on a command line. */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}
static inline double now(void) { return now_ns() * 1e-9; }

/* ---- the disk's pattern: 64-bit words, all different, from block lba on; flip: their complement ---------------- */
#define PATTERN_STEP 0x9E3779B97F4A7C15ull

static inline void pattern(void *buffer, size_t bytes, uint64_t lba, int flip) {
    uint64_t *word = buffer, mask = flip ? ~0ull : 0, value = (lba * 64 + 1) * PATTERN_STEP;
    for (size_t i = 0; i < bytes / 8; i++, value += PATTERN_STEP) word[i] = value ^ mask;
}
static inline int pattern_differs(const void *buffer, size_t bytes, uint64_t lba, int flip) {
    const uint64_t *word = buffer;
    uint64_t mask = flip ? ~0ull : 0, value = (lba * 64 + 1) * PATTERN_STEP, bad = 0;
    for (size_t i = 0; i < bytes / 8; i++, value += PATTERN_STEP) bad |= word[i] ^ value ^ mask;
    return bad != 0;
}

/* ---- result lines: NAME key=value ... -------------------------------------------------------------------------- */
static inline int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
/* n latencies in seconds, which it sorts; more: what else belongs on the line. */
static inline void print_latencies(FILE *to, const char *name, double *l, int n, const char *more) {
    double sum = 0;
    fprintf(to, "%s n=%d", name, n);
    if (n) {
        qsort(l, n, sizeof *l, by_value);
        for (int i = 0; i < n; i++) sum += l[i];
        static const struct { const char *name; double share; } quantile[] = {
            {"p10", .1}, {"p50", .5}, {"p90", .9}, {"p99", .99}, {"p999", .999},
        };
        fprintf(to, " mean_us=%.1f", sum / n * 1e6);
        for (unsigned i = 0; i < sizeof quantile / sizeof *quantile; i++)
            fprintf(to, " %s_us=%.1f", quantile[i].name, l[(int)(n * quantile[i].share)] * 1e6);
        fprintf(to, " max_us=%.1f", l[n - 1] * 1e6);
    }
    fprintf(to, " %s\n", more);
}
static inline void print_rate(const char *name, double bytes, double seconds, const char *more) {
    printf("%s bytes=%.0f s=%.3f MBps=%.1f %s\n", name, bytes, seconds, bytes / seconds / 1e6, more);
}

/* ---- a stream of stamped reports or packets: how late each came, and which never did --------------------------- */
struct stamps {
    double *delay;
    int n, room, dup, bad;
    uint64_t lost, last, first_at, last_at;
};
static inline void stamps_clear(struct stamps *s) {
    free(s->delay);
    memset(s, 0, sizeof *s);
}
/* One that came at a time, delay later than it was stamped; numbers count up, in so many bits. */
static inline void stamp(struct stamps *s, uint64_t number, int bits, uint64_t at, uint64_t delay) {
    uint64_t step = (number - s->last) & ((1ull << bits) - 1);
    if (!s->n) s->first_at = at;
    else if (!step || step >> (bits - 1)) s->dup++;
    else s->lost += step - 1;
    s->last = number, s->last_at = at;
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 1 << 20; /* two minutes at 8 kHz; not resident before it is written */
        s->delay = realloc(s->delay, s->room * sizeof *s->delay);
    }
    s->delay[s->n++] = delay * 1e-9;
}
static inline void print_stamps(FILE *to, const char *name, struct stamps *s, const char *more) {
    char all[200];
    double span = (s->last_at - s->first_at) * 1e-9;
    snprintf(all, sizeof all, "per_s=%.1f lost=%llu dup=%d bad=%d%s", span > 0 ? (s->n - 1) / span : 0,
             (unsigned long long)s->lost, s->dup, s->bad, more);
    print_latencies(to, name, s->delay, s->n, all);
}

/* A report: 16-bit number, 48 bits of the clock. */
#define REPORT_BYTES 8
static inline void make_report(uint8_t *data, uint64_t number, uint64_t at) {
    uint64_t report = (number & 0xffff) | at << 16;
    memcpy(data, &report, REPORT_BYTES);
}
static inline void take_report(struct stamps *s, const uint8_t *data, int length, uint64_t at) {
    uint64_t report;
    if (length != REPORT_BYTES) {
        s->bad++;
        return;
    }
    memcpy(&report, data, REPORT_BYTES);
    stamp(s, report & 0xffff, 16, at, (at - (report >> 16)) & 0xffffffffffffull);
}

/* An isochronous packet: "ISO!", 32-bit number, 64 bits of the clock, and bytes that repeat the number's lowest. */
#define ISO_BYTES_MIN 1024
static inline void make_iso(uint8_t *data, int length, uint32_t number, uint64_t at) {
    memcpy(data, "ISO!", 4);
    memcpy(data + 4, &number, 4);
    memcpy(data + 8, &at, 8);
    memset(data + 16, number, length - 16);
}
static inline void take_iso(struct stamps *s, const uint8_t *data, int length, uint64_t at) {
    uint32_t number;
    uint64_t made;
    if (length < ISO_BYTES_MIN || memcmp(data, "ISO!", 4)) {
        s->bad++;
        return;
    }
    memcpy(&number, data + 4, 4);
    memcpy(&made, data + 8, 8);
    if (data[16] != (uint8_t)number || data[length - 1] != (uint8_t)number) s->bad++;
    stamp(s, number, 32, at, at - made);
}
/* The sender's side of a stream of packets: 8000 a second in bursts, as of a guest's sound driver. */
#define ISO_PER_SECOND 8000
#define ISO_BURST 8
#define ISO_BURST_NS (1000000000ull * ISO_BURST / ISO_PER_SECOND)

/* How many URBs QEMU asks for: 60 ms of packets, 120 ms towards the device, and 16 at most. */
static inline int iso_urbs(int packets, int out) {
    int wanted = ISO_PER_SECOND * (out ? 120 : 60) / 1000, urbs = (wanted + packets - 1) / packets;
    return urbs < 16 ? urbs : 16;
}

/* ---- operations on a command line: NAME NUMBER ... ------------------------------------------------------------- */
#define MAX_ARGUMENTS 3
struct op {
    const char *name;
    int arguments;
    void (*run)(const double *argument);
};
/* Go through a command line, and carry it out unless only_check; 0, or 2 if something on it is none of `ops`. */
static inline int run_ops(const struct op *ops, char **words, int only_check) {
    while (*words) {
        const struct op *op = ops;
        double argument[MAX_ARGUMENTS] = {0};
        while (op->name && strcmp(op->name, *words)) op++;
        words++;
        for (int i = 0; op->name && i < op->arguments && *words; i++, words++) argument[i] = atof(*words);
        if (!op->name || (op->arguments && argument[op->arguments - 1] <= 0)) {
            fprintf(stderr, "no such operation, or too few numbers: %s\n", words[-1]);
            return 2;
        }
        if (!only_check) op->run(argument);
    }
    return 0;
}
