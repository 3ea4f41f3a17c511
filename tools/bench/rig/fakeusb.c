/* fakeusb: a drop-in libusb-1.0.so.0 over ONE emulated USB device, for benchmarks of programs that use libusb on a
 * machine without USB. Any of them runs on it unchanged: it implements libusb's interface, not the kernel's.
 *
 *   FAKEUSB_MODEL=msc LD_LIBRARY_PATH=BUILD/fakeusb usbredirect --device 46f4:0001 --to HOST:PORT
 *   FAKEUSB_MODEL=msc USBBRIDGE_LIBUSB=BUILD/fakeusb/libusb-1.0.so.0 usbbridge attach --foreground 46f4:0001 --vm URL
 *
 * The device is at bus 1 address 2 port 1, 46f4:000N, with one configuration. By FAKEUSB_MODEL:
 *   msc    1  bulk-only mass storage, IN 0x81 OUT 0x02: a RAM disk of FAKEUSB_MIB=64 that holds rig.h's pattern
 *   hid    2  boot mouse, interrupt IN 0x81: each FAKEUSB_INTERVAL_US=1000 one of rig.h's reports
 *   iso    3  IN 0x81 in alternate setting 1: each 125 us one of rig.h's packets, of FAKEUSB_ISO_PKT=1024|2048|3072
 *   loop   4  bulk loopback: each OUT 0x02 URB comes back as one message on IN 0x81
 *   zero   5  bulk source and sink: IN 0x81 is always full, OUT 0x02 is discarded
 *   combo  6  msc as interface 0 and hid, with IN 0x83, as interface 1
 *   sound  7  iso's counterpart: OUT 0x02 in alternate setting 1 takes a packet each 125 us. When the setting is left,
 *             by release or close too, or the process ends, a line on what came and how late is appended to the file
 *             FAKEUSB_REPORT; its "underruns" are slots between packets for which there was none
 * Settings:
 *   FAKEUSB_SPEED=high|super
 *   FAKEUSB_LAT_US=0       latency of an URB; URBs queued behind a busy endpoint overlap it
 *   FAKEUSB_MBPS=0         bulk bandwidth of the bus in MB/s (0: unpaced)
 *   FAKEUSB_KDRV=1         whether kernel drivers are bound
 *   FAKEUSB_USBFS_MB=16    limit of what is in flight, as usbfs has it (0: none)
 *   FAKEUSB_STATS=1        counters on stderr at the end
 * Faults:
 *   FAKEUSB_STALL_EVERY=N      each Nth bulk or interrupt URB of an endpoint ends by a stall
 *   FAKEUSB_SHORT_EVERY=N      each Nth bulk IN URB gives half
 *   FAKEUSB_HANG_AFTER=N       later URBs, but control, end only by cancel or timeout
 *   FAKEUSB_PLUG_AFTER_MS, FAKEUSB_UNPLUG_AFTER_MS    after libusb_init
 *
 * Time: each endpoint is a FIFO. Its head gets a due time on the device's own clock once the device can serve it (a
 * bulk-only IN waits for its command, a loop's IN for a message). Reports and isochronous packets have fixed slots, and
 * a slot at which no URB is queued is lost: a gap in the numbers, or an underrun. At its due time the URB is executed
 * and completed by whichever thread handles events, with one copy to or from the caller's buffer, as usbfs has it. With
 * one URB in flight the system calls are as many as the real ones (submit, poll, reap); with more, fewer. The handle's
 * pollfd shows POLLOUT while something is due, as usbfs does (an eventfd at its maximum is not writable); a timerfd
 * wakes up for what is due later. */
#define _GNU_SOURCE
#pragma GCC diagnostic ignored "-Wunused-parameter" /* the interface's signatures */
#include "rig.h"
#include <errno.h>
#include <libusb.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

typedef uint64_t u64;
#define NEVER UINT64_MAX
#define FULL 0xfffffffffffffffeull /* an eventfd at this value has no POLLOUT */
#define VENDOR 0x46f4
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define WARN(...) fprintf(stderr, "fakeusb: " __VA_ARGS__)
#define LOCK() pthread_mutex_lock(&lock)
#define UNLOCK() pthread_mutex_unlock(&lock)

enum function { NONE, MSC, HID, ISO, LOOP, ZERO, SOUND };
#define MAX_ITFS 2
static const struct { const char *name; enum function itf[MAX_ITFS]; } models[] = { /* by product id */
    {"", {NONE}}, {"msc", {MSC}}, {"hid", {HID}}, {"iso", {ISO}}, {"loop", {LOOP}}, {"zero", {ZERO}},
    {"combo", {MSC, HID}}, {"sound", {SOUND}},
};
static struct {
    int model, iso_bytes, stall_every, short_every, hang_after, stats;
    bool super, kdrv;
    u64 lat, mbps, mib, report_ns, plug_at, unplug_at, usbfs_max;
} C;

struct libusb_device { struct libusb_context *ctx; int refs; };
struct libusb_device_handle {
    struct libusb_device_handle *next;
    struct libusb_context *ctx;
    struct libusb_device *dev;
    int fd; /* the pollfd */
    bool signalled, wanted; /* whether it shows POLLOUT, and whether it has to */
    bool listed, auto_detach;
};
struct hotplug { struct hotplug *next; int id, events, dead; libusb_hotplug_callback_fn fn; void *data; };
struct libusb_context {
    struct libusb_context *next;
    struct libusb_device *dev; /* the enumerated device */
    struct libusb_device_handle *handles;
    struct hotplug *hotplug;
    int evfd, tfd, next_id;
    _Atomic int closing; /* threads that close a handle */
    bool attached, no_discovery, active; /* active: a thread holds the events lock */
    u64 armed;                           /* what the timerfd is set to */
    pthread_mutex_t events, waiters;
    pthread_cond_t cond;
    libusb_pollfd_added_cb added;
    libusb_pollfd_removed_cb removed;
    void *pfd_data;
};

struct urb { /* the private part of a transfer; struct libusb_transfer follows it */
    struct urb *next;
    struct ep *ep;
    struct libusb_device_handle *h;
    enum { IDLE, QUEUED, DONE } state;
    bool cancelled, hang;
    int status, actual, n; /* n bytes from src to dst: the copy to do at completion; own: to be freed after it */
    u64 submit, due, deadline, slot;
    void *dst, *src, *own;
} __attribute__((aligned(16)));
#define T(u) ((struct libusb_transfer *)((u) + 1))
#define U(t) ((struct urb *)(t) - 1)

static struct itf {
    enum function function;
    int alts, alt; /* how many alternate settings it has, and the current one */
    bool kdrv;     /* a kernel driver is bound to it */
    struct libusb_device_handle *owner; /* who has claimed it */
} itfs[MAX_ITFS];
enum { CTRL, IN, OUT, INT, EPS }; /* IN, OUT: bulk or isochronous */
static struct ep {
    struct itf *itf; /* NULL: the control endpoint, or one that the model lacks */
    uint8_t addr, type, halted;
    int alt, mps; /* the alternate setting that it is in */
    struct urb *head, **tail;
    u64 avail, last;        /* when the device could serve its head, and when the last one was over */
    u64 slot_ns, next_slot; /* of reports and isochronous packets */
    u64 count, queued, max_queued;
} eps[EPS];

struct msg { struct msg *next; u64 avail; int len, off; uint8_t data[]; };
static struct { struct msg *head, **tail; int n; } fifo = {NULL, &fifo.head, 0}; /* the loopback's */
#define FIFO_MAX 64
static struct { /* the mass-storage function */
    enum { CBW, DATA_IN, DATA_OUT, CSW, BAD } state;
    uint8_t *disk, *p, buf[256], status, key, asc;
    uint32_t blocks, tag, left, residue;
} M;
static struct { struct stamps got; u64 next_slot, underruns; bool on; } sound;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* over all of the device and the queues */
static struct libusb_context *contexts, *def_ctx;
static struct urb *done, **done_tail = &done; /* over, and not yet told */
static int def_refs, n_itfs, config = 1, n_timed, n_submitted;
static bool def_no_discovery;
static u64 t0, bus_free, in_flight;
static __thread bool handling; /* this thread is in an event handler */
static uint8_t scratch[4 << 20]; /* what a sink takes and a source gives: larger URBs are copied in part */

static bool attached(u64 now) { return now >= C.plug_at && now < C.unplug_at; }
static u64 tv_ns(const struct timeval *tv) { return tv->tv_sec * 1000000000ull + tv->tv_usec * 1000ull; }
static struct timespec ns_ts(u64 ns) { return (struct timespec){ns / 1000000000, ns % 1000000000}; }
static enum function function(const struct ep *e) { return e->itf ? e->itf->function : NONE; }
static struct itf *itf_at(int number) { return number >= 0 && number < n_itfs ? &itfs[number] : NULL; }

/* ---- descriptors ----------------------------------------------------------------------------------------------- */
static uint8_t dev_desc[18], cfg_desc[128];
static int cfg_len;
static const uint8_t *hid_desc; /* in cfg_desc */
static const uint8_t hid_report[] = { /* three buttons, X, Y, a wheel, four more bytes */
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, 0x05, 0x09, 0x19, 0x01, 0x29, 0x03, 0x15, 0x00, 0x25,
    0x01, 0x95, 0x03, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x05, 0x81, 0x03, 0x05, 0x01, 0x09, 0x30, 0x09, 0x31,
    0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x75, 0x08, 0x95, 0x03, 0x81, 0x06, 0x95, 0x04, 0x81, 0x03, 0xc0, 0xc0,
};

static void put(const uint8_t *p, int n) {
    memcpy(cfg_desc + cfg_len, p, n);
    cfg_len += n;
}
#define PUT(...) put((uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))
static void put_itf(struct itf *f, int n_eps) { /* its next alternate setting */
    static const uint8_t class[][3] = {
        [MSC] = {8, 6, 0x50}, [HID] = {3, 1, 2}, [ISO] = {255}, [LOOP] = {255}, [ZERO] = {255}, [SOUND] = {255}};
    const uint8_t *c = class[f->function];
    PUT(9, LIBUSB_DT_INTERFACE, f - itfs, f->alts++, n_eps, c[0], c[1], c[2], 0);
}
static void put_ep(int which, struct itf *f, uint8_t addr, int attr, int mps, int interval, int burst, int bytes) {
    struct ep *e = &eps[which];
    *e = (struct ep){.itf = f, .addr = addr, .type = attr & 3, .alt = f->alts - 1, .mps = mps, .tail = &e->head};
    PUT(7, LIBUSB_DT_ENDPOINT, addr, attr, mps, mps >> 8, interval);
    if (C.super) PUT(6, LIBUSB_DT_SS_ENDPOINT_COMPANION, burst, 0, bytes, bytes >> 8);
}
static void put_function(struct itf *f) {
    int bulk = C.super ? 1024 : 512, mult = C.iso_bytes / 1024 - 1, interval = 1, out = f->function == SOUND;
    switch (f->function) {
    case HID:
        while (interval < 16 && (125000ull << interval) <= C.report_ns) interval++;
        put_itf(f, 1);
        hid_desc = cfg_desc + cfg_len;
        PUT(9, LIBUSB_DT_HID, 0x11, 1, 0, 1, LIBUSB_DT_REPORT, sizeof hid_report, 0);
        put_ep(INT, f, n_itfs > 1 ? 0x83 : 0x81, LIBUSB_TRANSFER_TYPE_INTERRUPT, REPORT_BYTES, interval, 0,
               REPORT_BYTES);
        eps[INT].slot_ns = C.report_ns;
        break;
    case ISO: case SOUND:
        put_itf(f, 0);
        put_itf(f, 1);
        put_ep(out ? OUT : IN, f, out ? 2 : 0x81, LIBUSB_TRANSFER_TYPE_ISOCHRONOUS | LIBUSB_ISO_SYNC_TYPE_ASYNC << 2,
               1024 | (C.super ? 0 : mult << 11), 1, mult, C.iso_bytes);
        eps[out ? OUT : IN].slot_ns = 125000;
        break;
    default:
        put_itf(f, 2);
        put_ep(IN, f, 0x81, LIBUSB_TRANSFER_TYPE_BULK, bulk, 0, 15, 0);
        put_ep(OUT, f, 2, LIBUSB_TRANSFER_TYPE_BULK, bulk, 0, 15, 0);
    }
}
static void build_descriptors(void) {
    const uint8_t device[18] = {18, LIBUSB_DT_DEVICE, 0, C.super ? 3 : 2, 0, 0, 0, C.super ? 9 : 64, VENDOR & 255,
                                VENDOR >> 8, C.model, 0, 0, 1, 1, 2, 3, 1};
    memcpy(dev_desc, device, sizeof device);
    eps[CTRL].mps = C.super ? 512 : 64;
    while (n_itfs < MAX_ITFS && models[C.model].itf[n_itfs]) {
        itfs[n_itfs].function = models[C.model].itf[n_itfs];
        itfs[n_itfs++].kdrv = C.kdrv;
    }
    PUT(9, LIBUSB_DT_CONFIG, 0, 0, n_itfs, 1, 0, 0x80, 50);
    for (int i = 0; i < n_itfs; i++) put_function(&itfs[i]);
    cfg_desc[2] = cfg_len;
    for (int i = 0; i < EPS; i++) eps[i].tail = &eps[i].head;
}
static struct libusb_config_descriptor *parse_config(void) {
    struct libusb_config_descriptor *c = calloc(1, sizeof *c);
    struct libusb_interface *itf = calloc(n_itfs, sizeof *itf);
    struct libusb_interface_descriptor *a = NULL;
    struct libusb_endpoint_descriptor *e = NULL;
    memcpy(c, cfg_desc, 9);
    c->interface = itf;
    for (int i = 0; i < n_itfs; i++) itf[i].altsetting = calloc(itfs[i].alts, sizeof *a);
    for (uint8_t *p = cfg_desc + 9; p < cfg_desc + cfg_len; p += p[0]) {
        if (p[1] == LIBUSB_DT_INTERFACE) {
            struct libusb_interface *f = &itf[p[2]];
            a = (struct libusb_interface_descriptor *)&f->altsetting[f->num_altsetting++];
            memcpy(a, p, 9);
            a->endpoint = calloc(a->bNumEndpoints + 1, sizeof *e);
            e = NULL;
        } else if (p[1] == LIBUSB_DT_ENDPOINT) {
            e = e ? e + 1 : (struct libusb_endpoint_descriptor *)a->endpoint;
            memcpy(e, p, 7);
        } else { /* class specific, or a SuperSpeed companion */
            const unsigned char **extra = e ? &e->extra : &a->extra;
            *extra = *extra ? *extra : p;
            *(e ? &e->extra_length : &a->extra_length) += p[0];
        }
    }
    return c;
}

/* ---- mass storage: bulk-only transport and SCSI ---------------------------------------------------------------- */
static uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static void put32(uint8_t *p, uint32_t v) {
    v = __builtin_bswap32(v);
    memcpy(p, &v, 4);
}
static int sense(int key, int asc) {
    M.key = key, M.asc = asc;
    return -1;
}
static int scsi(const uint8_t *c, bool *out) { /* one command: its data length (data at M.p), or -1: sense is set */
    uint32_t lba = be32(c + 2);
    int n = c[7] << 8 | c[8];
    bool six = c[0] == 0x1a;
    uint8_t *b = memset(M.p = M.buf, 0, sizeof M.buf);
    switch (c[0]) { /* TEST UNIT READY, START STOP, PREVENT ALLOW, SYNCHRONIZE CACHE, VERIFY */
    case 0x00: case 0x1b: case 0x1e: case 0x35: case 0x2f:
        return 0;
    case 0x03: /* REQUEST SENSE */
        b[0] = 0x70, b[2] = M.key, b[7] = 10, b[12] = M.asc;
        sense(0, 0);
        return MIN(c[4], 18);
    case 0x12: /* INQUIRY: standard, and the pages 0x00 and 0x80 */
        n = c[3] << 8 | c[4];
        memcpy(b, "\0\x80\6\2\x1f\0\0\0" "FAKEUSB RAM disk        0001", 36);
        if (!(c[1] & 1)) return MIN(n, 36);
        memcpy(b, c[2] ? "\0\x80\0\14" "FAKE00000001" : "\0\0\0\2\0\x80\0\0\0\0\0\0\0\0\0", 16);
        return c[2] && c[2] != 0x80 ? sense(5, 0x24) : MIN(n, 4 + b[3]);
    case 0x1a: case 0x5a: /* MODE SENSE(6), (10): header, and a caching page (no cache) */
        b[six ? 0 : 1] = six ? 23 : 26;
        memcpy(b + (six ? 4 : 8), "\x08\x12", 2);
        return MIN(six ? c[4] : n, six ? 24 : 28);
    case 0x23: /* READ FORMAT CAPACITIES */
        b[3] = 8, b[8] = b[10] = 2;
        put32(b + 4, M.blocks);
        return MIN(n, 12);
    case 0x25: /* READ CAPACITY(10) */
        put32(b, M.blocks - 1);
        put32(b + 4, 512);
        return 8;
    case 0x28: case 0x2a: /* READ(10), WRITE(10) */
        if (lba > M.blocks || (uint32_t)n > M.blocks - lba) return sense(5, 0x21);
        M.p = M.disk + (u64)lba * 512;
        *out = c[0] == 0x2a;
        return n * 512;
    }
    return sense(5, 0x20);
}
static void msc_cbw(const uint8_t *c, int n) {
    if (n != 31 || memcmp(c, "USBC", 4) || c[13] || c[14] < 1 || c[14] > 16) { /* stalls until BOT reset */
        M.state = BAD, eps[IN].halted = eps[OUT].halted = true;
        return;
    }
    uint32_t want;
    bool in = c[12] & 0x80, out = false;
    memcpy(&M.tag, c + 4, 4);
    memcpy(&want, c + 8, 4);
    int len = scsi(c + 15, &out);
    M.status = len < 0, M.left = MAX(len, 0);
    if (M.left > want || (M.left && in == out)) M.status = 2, M.left = in == out ? 0 : want; /* phase error */
    M.residue = want - M.left;
    M.state = !M.left ? CSW : in ? DATA_IN : DATA_OUT;
    if (want && !M.left) eps[in ? IN : OUT].halted = true;
}
static int msc_exec(struct urb *u, struct ep *e, bool fault) {
    struct libusb_transfer *t = T(u);
    bool in = e == &eps[IN];
    if (M.state == CBW) {
        msc_cbw(t->buffer, u->actual = t->length);
        return M.state == BAD ? LIBUSB_TRANSFER_STALL : 0;
    }
    if (M.state == CSW) {
        if (t->length < 13) return LIBUSB_TRANSFER_OVERFLOW;
        memcpy(t->buffer, "USBS", 4);
        memcpy(t->buffer + 4, &M.tag, 4);
        memcpy(t->buffer + 8, &M.residue, 4);
        t->buffer[12] = M.status, u->actual = 13, M.state = CBW;
        return 0;
    }
    uint32_t n = MIN((uint32_t)t->length, M.left);
    if (in && n < M.left && n % e->mps) return LIBUSB_TRANSFER_OVERFLOW;
    if (fault && in) n /= 2, M.residue += M.left - n, M.left = n; /* give half of it, then the status */
    u->dst = in ? t->buffer : M.p, u->src = in ? M.p : t->buffer, u->n = u->actual = n;
    M.p += n, M.left -= n;
    if (M.left) return 0;
    M.state = CSW; /* a data stage that ends early ends by a stall, unless a short packet has ended it */
    if (!M.residue || (in && n % e->mps)) return 0;
    e->halted = true;
    return (int)n < t->length ? LIBUSB_TRANSFER_STALL : 0;
}

/* ---- the other functions --------------------------------------------------------------------------------------- */
static int loop_exec(struct urb *u, struct ep *e, bool fault) {
    struct libusb_transfer *t = T(u);
    struct msg *m = fifo.head;
    if (e == &eps[OUT]) {
        m = malloc(sizeof *m + t->length);
        *m = (struct msg){.avail = u->due, .len = t->length};
        *fifo.tail = m, fifo.tail = &m->next, fifo.n++;
        u->dst = m->data, u->src = t->buffer, u->n = u->actual = t->length;
        return 0;
    }
    int n = MIN(t->length, m->len - m->off);
    if (n < m->len - m->off && n % e->mps) return LIBUSB_TRANSFER_OVERFLOW;
    if (fault) n /= 2;
    u->dst = t->buffer, u->src = m->data + m->off, u->n = u->actual = n;
    if ((m->off += n) < m->len) return 0;
    if (!(fifo.head = m->next)) fifo.tail = &fifo.head;
    u->own = m, fifo.n--;
    return 0;
}
static int hid_exec(struct urb *u) {
    if (T(u)->length < REPORT_BYTES) return LIBUSB_TRANSFER_OVERFLOW;
    make_report(T(u)->buffer, u->slot, u->due);
    u->actual = REPORT_BYTES;
    return 0;
}
static int zero_exec(struct urb *u, struct ep *e, bool fault) {
    bool in = e == &eps[IN];
    u->actual = fault ? T(u)->length / 2 : T(u)->length;
    u->dst = in ? T(u)->buffer : scratch, u->src = in ? scratch : T(u)->buffer;
    u->n = MIN(u->actual, (int)sizeof scratch);
    return 0;
}
static u64 packet_due(const struct urb *u, int i) { return t0 + (u->slot + i + 1) * u->ep->slot_ns; }
static int sound_exec(struct urb *u) {
    struct libusb_transfer *t = T(u);
    uint8_t *p = t->buffer;
    if (sound.got.n) sound.underruns += u->slot - sound.next_slot;
    sound.next_slot = u->slot + t->num_iso_packets;
    for (int i = 0; i < t->num_iso_packets; p += t->iso_packet_desc[i++].length) {
        memcpy(scratch, p, t->iso_packet_desc[i].length);
        take_iso(&sound.got, scratch, t->iso_packet_desc[i].length, packet_due(u, i));
    }
    return 0;
}
static void sound_report(void) { /* the stream is over */
    const char *path = getenv("FAKEUSB_REPORT");
    FILE *to = sound.on && path ? fopen(path, "a") : NULL;
    char more[40];
    snprintf(more, sizeof more, " underruns=%llu", (unsigned long long)sound.underruns);
    if (to) {
        print_stamps(to, "sound", &sound.got, more);
        fclose(to);
    }
    stamps_clear(&sound.got);
    sound.underruns = 0, sound.on = false;
}
static void iso_result(struct urb *u) { /* of each packet, and what an IN one holds; at completion, without the lock */
    struct libusb_transfer *t = T(u);
    uint8_t *p = t->buffer;
    bool in = t->endpoint & LIBUSB_ENDPOINT_IN;
    for (int i = 0; i < t->num_iso_packets; p += t->iso_packet_desc[i++].length) {
        struct libusb_iso_packet_descriptor *d = &t->iso_packet_desc[i];
        d->status = u->status;
        if (!u->status && in && (int)d->length < C.iso_bytes) d->status = LIBUSB_TRANSFER_OVERFLOW;
        d->actual_length = d->status ? 0 : in ? C.iso_bytes : (int)d->length;
        if (in && !d->status) make_iso(p, C.iso_bytes, u->slot + i, packet_due(u, i));
    }
}

/* ---- the queues (all of it under the lock) --------------------------------------------------------------------- */
static struct ep *ep_by_addr(uint8_t addr) { /* in the current alternate settings */
    for (struct ep *e = &eps[IN]; e < &eps[EPS]; e++)
        if (e->itf && e->addr == addr && e->alt == e->itf->alt) return e;
    return addr & 0x7f ? NULL : &eps[CTRL];
}
static bool ready(struct ep *e) { /* can the device serve this endpoint now? */
    bool in = e == &eps[IN];
    if (e->halted) return true;
    switch (function(e)) {
    case MSC: return in ? M.state == DATA_IN || M.state == CSW : M.state == CBW || M.state == DATA_OUT;
    case LOOP: return in ? fifo.n > 0 : fifo.n < FIFO_MAX;
    default: return true;
    }
}
static u64 head_due(struct ep *e) { /* when the head of e is over, if that is known yet */
    struct urb *u = e->head;
    if (!u || u->hang) return NEVER;
    if (e->slot_ns) return u->due;
    if (!ready(e)) {
        u->due = 0;
        return NEVER;
    }
    if (u->due) return u->due;
    u64 from = MAX(u->submit, e->avail), len = T(u)->length;
    if (function(e) == LOOP && e == &eps[IN] && !e->halted) {
        from = MAX(from, fifo.head->avail);
        len = MIN(len, (u64)fifo.head->len - fifo.head->off);
    }
    if (function(e) == MSC && e == &eps[IN]) len = MIN(len, M.state == DATA_IN ? M.left : 13);
    u->due = MAX(from + C.lat, e->last);
    if (C.mbps && e->itf && !e->halted) u->due = bus_free = MAX(u->due, bus_free) + len * 1000 / C.mbps;
    return u->due;
}
static void unqueue(struct urb *u) {
    struct urb **p = &u->ep->head;
    while (*p != u) p = &(*p)->next;
    if (!(*p = u->next)) u->ep->tail = p;
    u->ep->queued--;
}
static void drop(struct urb *u, int status) { /* over without being executed */
    unqueue(u);
    u->status = status, u->state = DONE, u->next = NULL;
    *done_tail = u, done_tail = &u->next;
}
/* Drop the URBs of an interface, of a handle, of a context; NULL: of any. */
static void drop_all(struct itf *f, struct libusb_device_handle *h, struct libusb_context *c, int status) {
    for (struct ep *e = eps; e < &eps[EPS]; e++)
        for (struct urb *u = e->head, *next; u; u = next) {
            next = u->next;
            if ((!f || e->itf == f) && (!h || u->h == h) && (!c || u->h->ctx == c)) drop(u, status);
        }
}
static void set_alt(struct itf *f, int alt) {
    drop_all(f, NULL, NULL, LIBUSB_TRANSFER_CANCELLED);
    f->alt = alt;
    for (struct ep *e = eps; e < &eps[EPS]; e++)
        if (e->itf == f) e->next_slot = 0;
    if (f->function == SOUND) {
        sound_report();
        sound.on = alt;
    }
}
static void device_reset(void) {
    drop_all(NULL, NULL, NULL, LIBUSB_TRANSFER_NO_DEVICE);
    for (int i = 0; i < EPS; i++) eps[i].halted = false, eps[i].avail = eps[i].last = 0;
    for (int i = 0; i < n_itfs; i++) set_alt(&itfs[i], 0);
    for (struct msg *m; (m = fifo.head); free(m)) fifo.head = m->next;
    fifo.tail = &fifo.head, fifo.n = 0, M.state = CBW, bus_free = 0;
}
static void kick(struct libusb_context *ctx) { /* wake its event handler */
    if (write(ctx->evfd, &(u64){1}, 8) != 8) WARN("eventfd: %s\n", strerror(errno));
}
static void rearm(struct libusb_context *ctx, u64 now) { /* make the pollfds say what is due and when */
    u64 next = now < C.plug_at ? C.plug_at : now < C.unplug_at ? C.unplug_at : NEVER, v;
    struct libusb_device_handle *h;
    for (h = ctx->handles; h; h = h->next) h->wanted = false;
    for (struct urb *u = done; u; u = u->next) u->h->wanted = true;
    for (struct ep *e = eps; e < &eps[EPS]; e++) {
        for (struct urb *u = n_timed ? e->head : NULL; u; u = u->next) {
            if (u->deadline <= now) u->h->wanted = true;
            else if (u->h->ctx == ctx) next = MIN(next, u->deadline);
        }
        u64 due = e->head && e->head->h->ctx == ctx ? head_due(e) : NEVER;
        if (due <= now) e->head->h->wanted = true;
        else next = MIN(next, due);
    }
    for (h = ctx->handles; h; h = h->next) {
        if (h->wanted == h->signalled) continue;
        h->signalled = h->wanted, v = FULL;
        if ((h->signalled ? read(h->fd, &v, 8) : write(h->fd, &v, 8)) != 8) WARN("eventfd: %s\n", strerror(errno));
    }
    if (attached(now) != ctx->attached) kick(ctx);
    if (next == ctx->armed && (next == NEVER || next > now)) return;
    ctx->armed = next;
    struct itimerspec it = {.it_value = ns_ts(next == NEVER ? 0 : next)};
    timerfd_settime(ctx->tfd, TFD_TIMER_ABSTIME, &it, NULL);
}
static void rearm_all(void) {
    for (struct libusb_context *c = contexts; c; c = c->next) rearm(c, now_ns());
}

/* ---- control requests: the length of the data stage, or -1 for a stall ----------------------------------------- */
static int reply(uint8_t *d, int max, const void *p, int n) {
    n = MIN(n, max);
    memcpy(d, p, n);
    return n;
}
static int get_descriptor(int type, int index, uint8_t *d, int max) {
    static const uint8_t bos[] = {5, LIBUSB_DT_BOS, 22, 0, 2, /* USB 2.0 extension, SuperSpeed */
                                  7, 16, 2, 2, 0, 0, 0, 10, 16, 3, 0, 14, 0, 1, 10, 255, 7};
    static const uint8_t qualifier[] = {10, 6, 0, 2, 0, 0, 0, 64, 1, 0};
    const char *strings[] = {"", "Fakeusb", models[C.model].name, "FAKE00000001"};
    uint8_t b[64] = {4, LIBUSB_DT_STRING, 9, 4};
    switch (type) {
    case LIBUSB_DT_DEVICE: return reply(d, max, dev_desc, sizeof dev_desc);
    case LIBUSB_DT_CONFIG: return index ? -1 : reply(d, max, cfg_desc, cfg_len);
    case LIBUSB_DT_STRING:
        if (index > 3) return -1;
        for (int i = 0; index && strings[index][i]; i++) {
            b[0] = 4 + 2 * i;
            b[2 + 2 * i] = strings[index][i], b[3 + 2 * i] = 0;
        }
        return reply(d, max, b, b[0]);
    case LIBUSB_DT_BOS: return C.super ? reply(d, max, bos, sizeof bos) : -1;
    case 6: return C.super ? -1 : reply(d, max, qualifier, sizeof qualifier);
    case LIBUSB_DT_HID: return hid_desc ? reply(d, max, hid_desc, hid_desc[0]) : -1;
    case LIBUSB_DT_REPORT: return hid_desc ? reply(d, max, hid_report, sizeof hid_report) : -1;
    }
    return -1;
}
static int clear_halt(struct ep *e, bool set) {
    if (!e) return -1;
    e->halted = set || (function(e) == MSC && M.state == BAD);
    return 0;
}
static int control(const uint8_t *s, uint8_t *d) {
    int value = s[2] | s[3] << 8, max = s[6] | s[7] << 8;
    struct ep *e = ep_by_addr(s[4]);
    struct itf *f = itf_at(s[4]);
    bool msc = f && f->function == MSC, hid = f && f->function == HID;
    uint8_t b[REPORT_BYTES] = {0};
    switch (s[0] << 8 | s[1]) { /* bmRequestType, bRequest */
    case 0x8006: case 0x8106: return get_descriptor(value >> 8, value & 0xff, d, max);
    case 0x8000: case 0x8100: return reply(d, max, b, 2); /* GET_STATUS */
    case 0x8200: b[0] = e && e->halted; return e ? reply(d, max, b, 2) : -1;
    case 0x0201: case 0x0203: return value || e == &eps[CTRL] ? -1 : clear_halt(e, s[1] == 3);
    case 0x0001: case 0x0003: case 0x0030: case 0x0031: return 0; /* features, SET_SEL, SET_ISOCH_DELAY */
    case 0x8008: b[0] = config; return reply(d, max, b, 1);
    case 0x0009: config = value; return value > 1 ? -1 : 0;
    case 0x810a: b[0] = f ? f->alt : 0; return f ? reply(d, max, b, 1) : -1;
    case 0x010b:
        if (!f || value >= f->alts) return -1;
        set_alt(f, value);
        return 0;
    case 0xa1fe: return msc ? reply(d, max, b, 1) : -1; /* GET MAX LUN */
    case 0x21ff: M.state = CBW; return msc ? 0 : -1;    /* bulk-only reset */
    case 0xa101: return hid ? reply(d, max, b, sizeof b) : -1; /* GET_REPORT, _IDLE, _PROTOCOL, SET_... */
    case 0xa102: case 0xa103: return hid ? reply(d, max, b, 1) : -1;
    case 0x2109: case 0x210a: case 0x210b: return hid ? max : -1;
    }
    return -1;
}

/* ---- execution ------------------------------------------------------------------------------------------------- */
static int exec_function(struct urb *u, struct ep *e) {
    bool fault = C.short_every && e == &eps[IN] && e->count % C.short_every == 0;
    switch (function(e)) {
    case MSC: return msc_exec(u, e, fault);
    case HID: return hid_exec(u);
    case LOOP: return loop_exec(u, e, fault);
    case ZERO: return zero_exec(u, e, fault);
    case SOUND: return sound_exec(u);
    default: return 0; /* an isochronous IN: its data are made at completion */
    }
}
static void execute(struct urb *u, struct ep *e) {
    e->count++, e->last = u->due;
    if (!e->itf) {
        int n = control(T(u)->buffer, T(u)->buffer + LIBUSB_CONTROL_SETUP_SIZE);
        u->status = n < 0 ? LIBUSB_TRANSFER_STALL : 0, u->actual = MAX(n, 0);
        return;
    }
    if (C.stall_every && e->type != LIBUSB_TRANSFER_TYPE_ISOCHRONOUS && e->count % C.stall_every == 0) {
        e->halted = true;
        if (function(e) == MSC && (M.state == DATA_IN || M.state == DATA_OUT))
            M.residue += M.left, M.status = 1, M.state = CSW;
    }
    u->status = e->halted ? LIBUSB_TRANSFER_STALL : exec_function(u, e);
    if (function(e) == MSC) eps[e == &eps[IN] ? OUT : IN].avail = u->due; /* one after the other */
}
/* The next URB of ctx that is over at `now`, out of its queue and with its result set. */
static struct urb *pop(struct libusb_context *ctx, u64 now) {
    struct urb *u, *next, **p;
    struct ep *best = NULL;
    u64 due = now + 1;
    for (struct ep *e = eps; n_timed && e < &eps[EPS]; e++)
        for (u = e->head; u; u = next) {
            next = u->next;
            if (u->deadline <= now) drop(u, LIBUSB_TRANSFER_TIMED_OUT);
        }
    for (p = &done; (u = *p) && u->h->ctx != ctx;) p = &u->next;
    if (u) {
        if (!(*p = u->next)) done_tail = p;
    } else {
        for (struct ep *e = eps; e < &eps[EPS]; e++) {
            u64 at = e->head && e->head->h->ctx == ctx ? head_due(e) : NEVER;
            if (at < due) due = at, best = e;
        }
        if (!best) return NULL;
        unqueue(u = best->head);
        execute(u, best);
    }
    n_timed -= u->deadline != NEVER, in_flight -= T(u)->length, u->state = IDLE;
    return u;
}
static void complete(struct urb *u) { /* without the lock */
    struct libusb_transfer *t = T(u);
    uint8_t flags = t->flags;
    int wanted = t->length - (t->type == LIBUSB_TRANSFER_TYPE_CONTROL ? LIBUSB_CONTROL_SETUP_SIZE : 0);
    if (u->n) memcpy(u->dst, u->src, u->n);
    free(u->own);
    if (t->type == LIBUSB_TRANSFER_TYPE_ISOCHRONOUS) iso_result(u);
    else if ((flags & LIBUSB_TRANSFER_SHORT_NOT_OK) && !u->status && u->actual < wanted)
        u->status = LIBUSB_TRANSFER_ERROR;
    t->status = u->status, t->actual_length = u->actual;
    if (t->callback) t->callback(t);
    if (flags & LIBUSB_TRANSFER_FREE_TRANSFER) libusb_free_transfer(t);
}

/* ---- library, contexts ----------------------------------------------------------------------------------------- */
static u64 env(const char *name, u64 dflt) {
    char *s = getenv(name);
    return s && *s ? strtoull(s, NULL, 0) : dflt;
}
static void setup(void) {
    const char *model = getenv("FAKEUSB_MODEL"), *speed = getenv("FAKEUSB_SPEED");
    const int n_models = sizeof models / sizeof *models;
    for (C.model = 1; C.model < n_models && strcmp(model ? model : "msc", models[C.model].name);) C.model++;
    if (C.model == n_models) {
        WARN("there is no model %s\n", model);
        exit(2);
    }
    C.super = speed && !strcmp(speed, "super");
    C.lat = env("FAKEUSB_LAT_US", 0) * 1000, C.mbps = env("FAKEUSB_MBPS", 0);
    C.mib = env("FAKEUSB_MIB", 64), C.iso_bytes = MAX(env("FAKEUSB_ISO_PKT", 1024) & 0xc00, 1024);
    C.report_ns = env("FAKEUSB_INTERVAL_US", 1000) * 1000;
    C.stall_every = env("FAKEUSB_STALL_EVERY", 0), C.short_every = env("FAKEUSB_SHORT_EVERY", 0);
    C.hang_after = env("FAKEUSB_HANG_AFTER", 0), C.stats = env("FAKEUSB_STATS", 0);
    C.usbfs_max = env("FAKEUSB_USBFS_MB", 16) << 20, C.kdrv = env("FAKEUSB_KDRV", 1);
    u64 plug = env("FAKEUSB_PLUG_AFTER_MS", 0), unplug = env("FAKEUSB_UNPLUG_AFTER_MS", 0);
    build_descriptors();
    if (models[C.model].itf[0] == MSC) {
        M.blocks = C.mib * 2048;
        M.disk = mmap(NULL, C.mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pattern(M.disk, C.mib << 20, 0, 0);
    }
    t0 = now_ns();
    C.plug_at = t0 + plug * 1000000, C.unplug_at = unplug ? t0 + unplug * 1000000 : NEVER;
}
__attribute__((destructor)) static void at_end(void) {
    sound_report();
    for (struct ep *e = eps; C.stats && e < &eps[EPS]; e++)
        if (e->count) WARN("ep %02x: %lu URBs done, at most %lu queued\n", e->addr, e->count, e->max_queued);
}
static struct libusb_context *get(struct libusb_context *c) { return c ? c : def_ctx; }
#if LIBUSB_API_VERSION < 0x0100010A
struct libusb_init_option { int option; union { int ival; void *log_cb; } value; };
int libusb_init_context(libusb_context **out, const struct libusb_init_option *o, int n);
#endif
int libusb_init_context(libusb_context **out, const struct libusb_init_option *o, int n) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, setup);
    if (!out && def_ctx) return def_refs++, 0;
    struct libusb_context *c = calloc(1, sizeof *c);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&c->cond, &a);
    pthread_mutex_init(&c->events, NULL);
    pthread_mutex_init(&c->waiters, NULL);
    c->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->tfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    c->armed = NEVER, c->no_discovery = def_no_discovery, c->attached = attached(now_ns());
    for (int i = 0; i < n; i++) c->no_discovery |= o[i].option == LIBUSB_OPTION_NO_DEVICE_DISCOVERY;
    c->dev = malloc(sizeof *c->dev);
    *c->dev = (struct libusb_device){c, 1};
    if (out) *out = c;
    LOCK();
    c->next = contexts, contexts = c;
    if (!out || !def_ctx) def_ctx = c, def_refs = 1;
    rearm(c, now_ns());
    UNLOCK();
    return 0;
}
int libusb_init(libusb_context **out) { return libusb_init_context(out, NULL, 0); }
void libusb_exit(libusb_context *c) {
    if (!(c = get(c)) || (c == def_ctx && --def_refs > 0)) return;
    if (c->handles) WARN("libusb_exit with an open handle\n");
    struct libusb_context **p = &contexts;
    LOCK();
    while (*p != c) p = &(*p)->next;
    *p = c->next;
    if (def_ctx == c) def_ctx = NULL;
    UNLOCK();
    close(c->evfd);
    close(c->tfd);
    libusb_unref_device(c->dev);
    for (struct hotplug *h; (h = c->hotplug); free(h)) c->hotplug = h->next;
    free(c);
}
int libusb_set_option(libusb_context *c, enum libusb_option option, ...) {
    if (option == LIBUSB_OPTION_NO_DEVICE_DISCOVERY) *(c ? &c->no_discovery : &def_no_discovery) = true;
    return option == LIBUSB_OPTION_USE_USBDK ? LIBUSB_ERROR_NOT_SUPPORTED : 0;
}
static const struct libusb_version version = {1, 0, 26, 11724, "", "fakeusb"};
const struct libusb_version *libusb_get_version(void) { return &version; }
int libusb_has_capability(uint32_t c) {
    return c == LIBUSB_CAP_HAS_CAPABILITY || c == LIBUSB_CAP_HAS_HOTPLUG ||
           c == LIBUSB_CAP_SUPPORTS_DETACH_KERNEL_DRIVER;
}
const char *libusb_error_name(int e) {
    static const char *const name[] = {"SUCCESS", "ERROR_IO", "ERROR_INVALID_PARAM", "ERROR_ACCESS", "ERROR_NO_DEVICE",
        "ERROR_NOT_FOUND", "ERROR_BUSY", "ERROR_TIMEOUT", "ERROR_OVERFLOW", "ERROR_PIPE", "ERROR_INTERRUPTED",
        "ERROR_NO_MEM", "ERROR_NOT_SUPPORTED", "ERROR_OTHER"};
    static __thread char text[40];
    snprintf(text, sizeof text, "LIBUSB_%s", name[e <= 0 && e > -13 ? -e : 13]);
    return text;
}
const char *libusb_strerror(int e) { return libusb_error_name(e) + strlen("LIBUSB_"); }

/* ---- devices --------------------------------------------------------------------------------------------------- */
ssize_t libusb_get_device_list(libusb_context *c, libusb_device ***list) {
    *list = calloc(2, sizeof **list);
    if (!attached(now_ns()) || get(c)->no_discovery) return 0;
    (*list)[0] = libusb_ref_device(get(c)->dev);
    return 1;
}
void libusb_free_device_list(libusb_device **l, int unref) {
    if (l && unref) libusb_unref_device(l[0]);
    free(l);
}
libusb_device *libusb_ref_device(libusb_device *d) {
    __atomic_add_fetch(&d->refs, 1, __ATOMIC_SEQ_CST);
    return d;
}
void libusb_unref_device(libusb_device *d) {
    if (d && !__atomic_sub_fetch(&d->refs, 1, __ATOMIC_SEQ_CST)) free(d);
}
libusb_device *libusb_get_device(libusb_device_handle *h) { return h->dev; }
int libusb_get_device_speed(libusb_device *d) { return C.super ? LIBUSB_SPEED_SUPER : LIBUSB_SPEED_HIGH; }
int libusb_get_port_numbers(libusb_device *d, uint8_t *p, int n) { *p = 1; return 1; }
int libusb_get_max_packet_size(libusb_device *d, unsigned char addr) {
    for (struct ep *e = &eps[IN]; e < &eps[EPS]; e++)
        if (e->itf && e->addr == addr) return e->mps;
    return LIBUSB_ERROR_NOT_FOUND;
}
int libusb_get_max_iso_packet_size(libusb_device *d, unsigned char addr) {
    for (struct ep *e = &eps[IN]; e < &eps[EPS]; e++)
        if (e->itf && e->addr == addr && e->type == LIBUSB_TRANSFER_TYPE_ISOCHRONOUS) return C.iso_bytes;
    return libusb_get_max_packet_size(d, addr);
}
int libusb_get_device_descriptor(libusb_device *d, struct libusb_device_descriptor *out) {
    memcpy(out, dev_desc, sizeof dev_desc);
    return 0;
}
int libusb_get_config_descriptor(libusb_device *d, uint8_t i, struct libusb_config_descriptor **out) {
    if (i) return LIBUSB_ERROR_NOT_FOUND;
    *out = parse_config();
    return 0;
}
int libusb_get_active_config_descriptor(libusb_device *d, struct libusb_config_descriptor **out) {
    return libusb_get_config_descriptor(d, !config, out);
}
int libusb_get_config_descriptor_by_value(libusb_device *d, uint8_t v, struct libusb_config_descriptor **out) {
    return libusb_get_config_descriptor(d, v - 1, out);
}
void libusb_free_config_descriptor(struct libusb_config_descriptor *c) {
    if (!c) return;
    for (int i = 0; i < c->bNumInterfaces; i++) {
        const struct libusb_interface *itf = &c->interface[i];
        for (int k = 0; k < itf->num_altsetting; k++) free((void *)itf->altsetting[k].endpoint);
        free((void *)itf->altsetting);
    }
    free((void *)c->interface);
    free(c);
}
int libusb_get_ss_endpoint_companion_descriptor(libusb_context *c, const struct libusb_endpoint_descriptor *e,
                                                struct libusb_ss_endpoint_companion_descriptor **out) {
    if (e->extra_length < 6 || e->extra[1] != LIBUSB_DT_SS_ENDPOINT_COMPANION) return LIBUSB_ERROR_NOT_FOUND;
    *out = calloc(1, sizeof **out);
    memcpy(*out, e->extra, 6);
    return 0;
}
void libusb_free_ss_endpoint_companion_descriptor(struct libusb_ss_endpoint_companion_descriptor *p) { free(p); }

/* ---- handles --------------------------------------------------------------------------------------------------- */
int libusb_open(libusb_device *d, libusb_device_handle **out) {
    struct libusb_context *c = d->ctx;
    if (!attached(now_ns())) return LIBUSB_ERROR_NO_DEVICE;
    struct libusb_device_handle *h = *out = calloc(1, sizeof *h);
    *h = (struct libusb_device_handle){.ctx = c, .dev = libusb_ref_device(d), .listed = true};
    h->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (write(h->fd, &(u64){FULL}, 8) != 8) WARN("eventfd: %s\n", strerror(errno));
    LOCK();
    h->next = c->handles, c->handles = h;
    UNLOCK();
    if (c->added) c->added(h->fd, POLLOUT, c->pfd_data);
    kick(c); /* a thread that polls has to take the new fd */
    return 0;
}
int libusb_wrap_sys_device(libusb_context *c, intptr_t fd, libusb_device_handle **out) {
    struct libusb_device *d = malloc(sizeof *d);
    *d = (struct libusb_device){get(c), 1};
    int r = libusb_open(d, out);
    libusb_unref_device(d);
    return r;
}
libusb_device_handle *libusb_open_device_with_vid_pid(libusb_context *c, uint16_t vid, uint16_t pid) {
    libusb_device_handle *h = NULL;
    if (vid == VENDOR && pid == C.model && !get(c)->no_discovery) libusb_open(get(c)->dev, &h);
    return h;
}
static void release(struct itf *f, bool driver) {
    set_alt(f, 0);
    f->owner = NULL, f->kdrv = driver && C.kdrv;
}
void libusb_close(libusb_device_handle *h) {
    if (!h) return;
    struct libusb_context *c = h->ctx;
    bool outside = !handling;
    if (outside) { /* get the event handler out of the way */
        c->closing++;
        kick(c);
        libusb_lock_events(c);
    }
    LOCK();
    for (int i = 0; i < EPS; i++)
        for (struct urb *u = eps[i].head; u; u = u->next)
            if (u->h == h) WARN("libusb_close with an URB in flight on ep %02x\n", eps[i].addr);
    drop_all(NULL, h, NULL, LIBUSB_TRANSFER_CANCELLED);
    done_tail = &done;
    for (struct urb *u; (u = *done_tail);) { /* no callbacks after close */
        if (u->h != h) done_tail = &u->next;
        else *done_tail = u->next, u->state = IDLE, n_timed -= u->deadline != NEVER, in_flight -= T(u)->length;
    }
    struct libusb_device_handle **p = &c->handles;
    while (*p != h) p = &(*p)->next;
    *p = h->next;
    for (int i = 0; i < n_itfs; i++)
        if (itfs[i].owner == h) release(&itfs[i], false);
    rearm_all();
    UNLOCK();
    if (c->removed && h->listed) c->removed(h->fd, c->pfd_data);
    if (outside) {
        c->closing--;
        libusb_unlock_events(c);
    }
    close(h->fd);
    libusb_unref_device(h->dev);
    free(h);
}
/* Calls that usbfs carries out at once are between these two: is the device there, and what has become due by it? */
static int enter(void) {
    LOCK();
    return attached(now_ns()) ? 0 : LIBUSB_ERROR_NO_DEVICE;
}
static int leave(int r) {
    rearm_all();
    UNLOCK();
    return r;
}
int libusb_get_configuration(libusb_device_handle *h, int *out) {
    int r = enter();
    if (!r) *out = config;
    return leave(r);
}
int libusb_set_configuration(libusb_device_handle *h, int v) {
    int r = enter();
    for (int i = 0; i < n_itfs && !r; i++)
        if (itfs[i].owner || itfs[i].kdrv) r = LIBUSB_ERROR_BUSY;
    if (!r && v > 1) r = LIBUSB_ERROR_NOT_FOUND;
    if (r) return leave(r);
    device_reset();
    config = v == 1;
    for (int i = 0; i < n_itfs; i++) itfs[i].kdrv = config && C.kdrv;
    return leave(0);
}
int libusb_claim_interface(libusb_device_handle *h, int i) {
    struct itf *f = itf_at(i);
    int r = enter();
    if (!r && (!f || !config)) r = LIBUSB_ERROR_NOT_FOUND;
    if (!r && ((f->kdrv && !h->auto_detach) || (f->owner && f->owner != h))) r = LIBUSB_ERROR_BUSY;
    if (!r) f->kdrv = false, f->owner = h;
    return leave(r);
}
int libusb_release_interface(libusb_device_handle *h, int i) {
    struct itf *f = itf_at(i);
    int r = enter();
    if (!r && (!f || f->owner != h)) r = LIBUSB_ERROR_NOT_FOUND;
    if (!r) release(f, h->auto_detach);
    return leave(r);
}
int libusb_set_interface_alt_setting(libusb_device_handle *h, int i, int v) {
    struct itf *f = itf_at(i);
    int r = enter();
    if (!r && (!f || f->owner != h || v < 0 || v >= f->alts)) r = LIBUSB_ERROR_NOT_FOUND;
    if (!r) set_alt(f, v);
    return leave(r);
}
int libusb_clear_halt(libusb_device_handle *h, unsigned char addr) {
    int r = enter();
    if (!r && clear_halt(ep_by_addr(addr), false)) r = LIBUSB_ERROR_NOT_FOUND;
    return leave(r);
}
int libusb_reset_device(libusb_device_handle *h) {
    int r = enter();
    if (!r) device_reset();
    return leave(r);
}
int libusb_kernel_driver_active(libusb_device_handle *h, int i) {
    struct itf *f = itf_at(i);
    int r = enter();
    return leave(r ? r : f && f->kdrv);
}
int libusb_detach_kernel_driver(libusb_device_handle *h, int i) {
    struct itf *f = itf_at(i);
    int r = enter();
    if (!r && (!f || !f->kdrv)) r = LIBUSB_ERROR_NOT_FOUND;
    if (!r) f->kdrv = false;
    return leave(r);
}
int libusb_attach_kernel_driver(libusb_device_handle *h, int i) {
    struct itf *f = itf_at(i);
    int r = enter();
    if (!r && !f) r = LIBUSB_ERROR_NOT_FOUND;
    if (!r && (f->owner || f->kdrv)) r = LIBUSB_ERROR_BUSY;
    if (!r) f->kdrv = C.kdrv;
    return leave(r);
}
int libusb_set_auto_detach_kernel_driver(libusb_device_handle *h, int on) { h->auto_detach = on; return 0; }

/* ---- transfers ------------------------------------------------------------------------------------------------- */
struct libusb_transfer *libusb_alloc_transfer(int packets) {
    struct urb *u = calloc(1, sizeof *u + sizeof *T(u) + packets * sizeof *T(u)->iso_packet_desc);
    T(u)->num_iso_packets = packets;
    return T(u);
}
void libusb_free_transfer(struct libusb_transfer *t) {
    if (!t) return;
    if (U(t)->state != IDLE) WARN("libusb_free_transfer of an URB in flight on ep %02x\n", t->endpoint);
    if (t->flags & LIBUSB_TRANSFER_FREE_BUFFER) free(t->buffer);
    free(U(t));
}
static bool packets_too_large(const struct libusb_transfer *t) {
    bool found = false;
    for (int i = 0; i < t->num_iso_packets; i++) found |= (int)t->iso_packet_desc[i].length > C.iso_bytes;
    return found;
}
static int may_submit(const struct libusb_transfer *t, const struct ep *e, int type, u64 now) {
    if (U(t)->state != IDLE) return LIBUSB_ERROR_BUSY;
    if (!attached(now)) return LIBUSB_ERROR_NO_DEVICE;
    if (!e || e->type != type || (e->itf && e->itf->kdrv)) return LIBUSB_ERROR_IO;
    if (!e->itf && t->length < (int)LIBUSB_CONTROL_SETUP_SIZE) return LIBUSB_ERROR_IO;
    if (type == LIBUSB_TRANSFER_TYPE_ISOCHRONOUS && packets_too_large(t)) return LIBUSB_ERROR_IO;
    if (C.usbfs_max && in_flight + t->length > C.usbfs_max) return LIBUSB_ERROR_NO_MEM;
    return 0;
}
int libusb_submit_transfer(struct libusb_transfer *t) {
    struct urb *u = U(t);
    u64 now = now_ns();
    int type = t->type;
    LOCK();
    struct ep *e = type == LIBUSB_TRANSFER_TYPE_CONTROL ? &eps[CTRL] : ep_by_addr(t->endpoint);
    if (e && type == LIBUSB_TRANSFER_TYPE_BULK && e->type == LIBUSB_TRANSFER_TYPE_INTERRUPT) type = e->type;
    int r = may_submit(t, e, type, now);
    if (r) goto out;
    if (e->itf && !e->itf->owner) {
        e->itf->owner = t->dev_handle;
        WARN("interface %d used before it was claimed\n", (int)(e->itf - itfs));
    }
    *u = (struct urb){.ep = e, .h = t->dev_handle, .state = QUEUED, .submit = now};
    u->hang = e->itf && ++n_submitted > C.hang_after && C.hang_after;
    u->deadline = t->timeout ? now + t->timeout * 1000000ull : NEVER;
    n_timed += t->timeout != 0, in_flight += t->length;
    if (e->slot_ns) { /* the next free slots of the endpoint */
        int slots = type == LIBUSB_TRANSFER_TYPE_ISOCHRONOUS ? t->num_iso_packets : 0;
        u->slot = MAX(e->next_slot, (now - t0) / e->slot_ns + 1);
        u->due = t0 + (u->slot + slots) * e->slot_ns, e->next_slot = u->slot + MAX(slots, 1);
    }
    *e->tail = u, e->tail = &u->next, e->queued++, e->max_queued = MAX(e->max_queued, e->queued);
    rearm(u->h->ctx, now);
out:
    UNLOCK();
    return r;
}
int libusb_cancel_transfer(struct libusb_transfer *t) {
    struct urb *u = U(t);
    LOCK();
    int r = u->state == IDLE || u->cancelled ? LIBUSB_ERROR_NOT_FOUND : 0;
    if (!r) u->cancelled = true;
    if (!r && u->state == QUEUED) {
        drop(u, LIBUSB_TRANSFER_CANCELLED);
        rearm_all();
    }
    UNLOCK();
    return r;
}
static void sync_done(struct libusb_transfer *t) { *(int *)t->user_data = 1; }
static int sync_transfer(libusb_device_handle *h, int type, uint8_t ep, uint8_t *buf, int len, int *n, unsigned ms) {
    static const int result[] = {0, LIBUSB_ERROR_IO, LIBUSB_ERROR_TIMEOUT, LIBUSB_ERROR_IO, LIBUSB_ERROR_PIPE,
                                 LIBUSB_ERROR_NO_DEVICE, LIBUSB_ERROR_OVERFLOW};
    int over = 0;
    if (handling) return LIBUSB_ERROR_BUSY;
    struct libusb_transfer *t = libusb_alloc_transfer(0);
    libusb_fill_bulk_transfer(t, h, ep, buf, len, sync_done, &over, ms);
    t->type = type;
    int r = libusb_submit_transfer(t);
    while (!r && !over) libusb_handle_events_completed(h->ctx, &over);
    if (!r) r = result[t->status];
    if (n) *n = t->actual_length;
    libusb_free_transfer(t);
    return r;
}
int libusb_control_transfer(libusb_device_handle *h, uint8_t rt, uint8_t rq, uint16_t val, uint16_t idx,
                            unsigned char *data, uint16_t len, unsigned ms) {
    uint8_t b[LIBUSB_CONTROL_SETUP_SIZE + 65536], *in_b = b + LIBUSB_CONTROL_SETUP_SIZE;
    int n, r;
    libusb_fill_control_setup(b, rt, rq, val, idx, len);
    if (!(rt & LIBUSB_ENDPOINT_IN) && len) memcpy(in_b, data, len);
    r = sync_transfer(h, LIBUSB_TRANSFER_TYPE_CONTROL, 0, b, LIBUSB_CONTROL_SETUP_SIZE + len, &n, ms);
    if (!r && rt & LIBUSB_ENDPOINT_IN) memcpy(data, in_b, n);
    return r ? r : n;
}
int libusb_bulk_transfer(libusb_device_handle *h, unsigned char ep, unsigned char *d, int len, int *n, unsigned ms) {
    return sync_transfer(h, LIBUSB_TRANSFER_TYPE_BULK, ep, d, len, n, ms);
}
int libusb_interrupt_transfer(libusb_device_handle *h, unsigned char ep, unsigned char *d, int len, int *n,
                              unsigned ms) {
    return sync_transfer(h, LIBUSB_TRANSFER_TYPE_INTERRUPT, ep, d, len, n, ms);
}
int libusb_get_string_descriptor_ascii(libusb_device_handle *h, uint8_t i, unsigned char *d, int len) {
    uint8_t b[255];
    int n = 0, r = i ? libusb_get_string_descriptor(h, i, 0x0409, b, sizeof b) : LIBUSB_ERROR_INVALID_PARAM;
    for (int k = 2; k + 1 < r && n < len - 1; k += 2) d[n++] = b[k + 1] ? '?' : b[k];
    if (r >= 0 && len > 0) d[n] = 0;
    return r < 0 ? r : n;
}

/* ---- events ---------------------------------------------------------------------------------------------------- */
#define MAX_FDS 10
static int list_fds(struct libusb_context *c, struct pollfd *p) {
    int n = 2;
    p[0] = (struct pollfd){c->evfd, POLLIN, 0};
    p[1] = (struct pollfd){c->tfd, POLLIN, 0};
    LOCK();
    for (struct libusb_device_handle *h = c->handles; h && n < MAX_FDS; h = h->next)
        if (h->listed) p[n++] = (struct pollfd){h->fd, POLLOUT, 0};
    UNLOCK();
    return n;
}
static void broadcast(struct libusb_context *c) {
    pthread_mutex_lock(&c->waiters);
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->waiters);
}
static void plug_event(struct libusb_context *c, bool here) {
    int ev = here ? LIBUSB_HOTPLUG_EVENT_DEVICE_ARRIVED : LIBUSB_HOTPLUG_EVENT_DEVICE_LEFT;
    c->attached = here;
    LOCK();
    if (!here) drop_all(NULL, NULL, c, LIBUSB_TRANSFER_NO_DEVICE);
    UNLOCK();
    for (struct libusb_device_handle *h = here ? NULL : c->handles; h; h = h->next) {
        if (h->listed && c->removed) c->removed(h->fd, c->pfd_data);
        h->listed = false;
    }
    for (struct hotplug *h = c->hotplug; h; h = h->next)
        if (!h->dead && (h->events & ev)) h->dead |= h->fn(c, c->dev, ev, h->data);
}
static int do_events(struct libusb_context *c, u64 until) { /* with the events lock held */
    struct pollfd pf[MAX_FDS];
    int n = list_fds(c, pf);
    u64 v, now = now_ns();
    struct timespec ts = ns_ts(until > now ? until - now : 0);
    if (ppoll(pf, n, &ts, NULL) < 0) return errno == EINTR ? LIBUSB_ERROR_INTERRUPTED : LIBUSB_ERROR_IO;
    if (pf[0].revents && read(c->evfd, &v, 8) < 0 && errno != EAGAIN) return LIBUSB_ERROR_IO;
    now = now_ns();
    handling = true;
    if (attached(now) != c->attached) plug_event(c, attached(now));
    for (struct urb *u = NULL;;) {
        LOCK();
        if (!(u = pop(c, now))) rearm(c, now_ns());
        UNLOCK();
        if (!u) break;
        complete(u);
        broadcast(c);
    }
    handling = false;
    return 0;
}
int libusb_handle_events_timeout_completed(libusb_context *c, struct timeval *tv, int *completed) {
    u64 now, until = now_ns() + tv_ns(tv);
    volatile int *over = completed ? completed : &(int){0};
    c = get(c);
    if (handling) return LIBUSB_ERROR_BUSY;
    while (!*over) {
        int r = -1;
        if (!libusb_try_lock_events(c)) {
            r = *over ? 0 : do_events(c, until);
            libusb_unlock_events(c);
            return r;
        }
        libusb_lock_event_waiters(c); /* someone else handles events: wait for them */
        now = now_ns();
        u64 us = until > now ? (until - now) / 1000 : 0;
        if (!*over && libusb_event_handler_active(c))
            r = libusb_wait_for_event(c, &(struct timeval){us / 1000000, us % 1000000});
        libusb_unlock_event_waiters(c);
        if (r >= 0) break;
    }
    return 0;
}
int libusb_handle_events_timeout(libusb_context *c, struct timeval *tv) {
    return libusb_handle_events_timeout_completed(c, tv, NULL);
}
int libusb_handle_events_completed(libusb_context *c, int *completed) {
    return libusb_handle_events_timeout_completed(c, &(struct timeval){60, 0}, completed);
}
int libusb_handle_events(libusb_context *c) { return libusb_handle_events_completed(c, NULL); }
int libusb_handle_events_locked(libusb_context *c, struct timeval *tv) {
    return do_events(get(c), now_ns() + tv_ns(tv));
}
void libusb_interrupt_event_handler(libusb_context *c) { kick(get(c)); }
int libusb_try_lock_events(libusb_context *c) {
    if (get(c)->closing || pthread_mutex_trylock(&get(c)->events)) return 1;
    get(c)->active = true;
    return 0;
}
void libusb_lock_events(libusb_context *c) {
    pthread_mutex_lock(&get(c)->events);
    get(c)->active = true;
}
void libusb_unlock_events(libusb_context *c) {
    get(c)->active = false;
    pthread_mutex_unlock(&get(c)->events);
    broadcast(get(c));
}
int libusb_event_handling_ok(libusb_context *c) { return !get(c)->closing; }
int libusb_event_handler_active(libusb_context *c) { return get(c)->closing || get(c)->active; }
void libusb_lock_event_waiters(libusb_context *c) { pthread_mutex_lock(&get(c)->waiters); }
void libusb_unlock_event_waiters(libusb_context *c) { pthread_mutex_unlock(&get(c)->waiters); }
int libusb_wait_for_event(libusb_context *c, struct timeval *tv) {
    struct timespec ts = ns_ts(now_ns() + (tv ? tv_ns(tv) : 1ull << 55));
    return pthread_cond_timedwait(&get(c)->cond, &get(c)->waiters, &ts) == ETIMEDOUT;
}
const struct libusb_pollfd **libusb_get_pollfds(libusb_context *c) {
    struct pollfd pf[MAX_FDS];
    int n = list_fds(get(c), pf);
    struct { const struct libusb_pollfd *p[MAX_FDS + 1]; struct libusb_pollfd f[MAX_FDS]; } *r = calloc(1, sizeof *r);
    for (int i = 0; i < n; i++) {
        r->f[i] = (struct libusb_pollfd){pf[i].fd, pf[i].events};
        r->p[i] = &r->f[i];
    }
    return r->p;
}
void libusb_free_pollfds(const struct libusb_pollfd **p) { free(p); }
void libusb_set_pollfd_notifiers(libusb_context *c, libusb_pollfd_added_cb a, libusb_pollfd_removed_cb r, void *data) {
    get(c)->added = a, get(c)->removed = r, get(c)->pfd_data = data;
}
int libusb_hotplug_register_callback(libusb_context *c, int events, int flags, int vid, int pid, int cls,
                                     libusb_hotplug_callback_fn fn, void *data, libusb_hotplug_callback_handle *out) {
    struct hotplug *h = calloc(1, sizeof *h);
    c = get(c);
    *h = (struct hotplug){c->hotplug, ++c->next_id, events, 0, fn, data};
    h->dead = (vid >= 0 && vid != VENDOR) || (pid >= 0 && pid != C.model) || (cls >= 0 && cls != dev_desc[4]);
    c->hotplug = h;
    if (out) *out = h->id;
    if ((flags & LIBUSB_HOTPLUG_ENUMERATE) && !h->dead && c->attached && (events & LIBUSB_HOTPLUG_EVENT_DEVICE_ARRIVED))
        h->dead = fn(c, c->dev, LIBUSB_HOTPLUG_EVENT_DEVICE_ARRIVED, data);
    return 0;
}
void libusb_hotplug_deregister_callback(libusb_context *c, libusb_hotplug_callback_handle id) {
    for (struct hotplug *h = get(c)->hotplug; h; h = h->next) h->dead |= h->id == id;
}
void *libusb_hotplug_get_user_data(libusb_context *c, libusb_hotplug_callback_handle id) {
    for (struct hotplug *h = get(c)->hotplug; h; h = h->next)
        if (h->id == id) return h->data;
    return NULL;
}

/* ---- constants, and what is not emulated ----------------------------------------------------------------------- */
#define RET(v, name) long fake_##name(void) __asm__("libusb_" #name); long fake_##name(void) { return v; }
RET(1, get_bus_number) RET(2, get_device_address) RET(1, get_port_number) RET(0, get_parent)
RET(0, set_debug) RET(0, set_log_cb) RET(0, setlocale) RET(0, get_next_timeout) RET(1, pollfds_handle_timeouts)
RET(0, transfer_set_stream_id) RET(0, transfer_get_stream_id) RET(0, dev_mem_alloc) RET(0, free_bos_descriptor)
RET(0, free_usb_2_0_extension_descriptor) RET(0, free_ss_usb_device_capability_descriptor)
RET(0, free_container_id_descriptor)
#define NOT_SUPPORTED(name) RET(LIBUSB_ERROR_NOT_SUPPORTED, name)
NOT_SUPPORTED(alloc_streams) NOT_SUPPORTED(free_streams) NOT_SUPPORTED(dev_mem_free) NOT_SUPPORTED(get_port_path)
NOT_SUPPORTED(get_bos_descriptor) NOT_SUPPORTED(get_usb_2_0_extension_descriptor)
NOT_SUPPORTED(get_ss_usb_device_capability_descriptor) NOT_SUPPORTED(get_container_id_descriptor)
