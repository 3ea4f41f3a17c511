/* localbench: guestgen's work done on libusb directly: what the device gives without redirection.
 *
 *   LD_LIBRARY_PATH=BUILD/fakeusb localbench OP NUMBER ...    guestgen's operations and result lines, and
 *     urb BYTES COUNT DEPTH   raw bulk IN on fakeusb's model `zero`, DEPTH in flight: each pass is epoll on libusb's
 *                             descriptors, handle_events_timeout(0), and a callback that submits again; prints the time
 *                             and processor time of an URB: what a program in another language is compared with
 *   LIMIT_S=SECONDS as for guestgen. It opens fakeusb's device, whatever its model.
 */
#define _GNU_SOURCE
#include "rig.h"
#include <libusb.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define EP_IN 0x81
#define EP_OUT 0x02
#define VENDOR 0x46f4
#define LAST_PRODUCT 7
#define BUFFER (64 << 20)
#define BLOCK 512

static libusb_context *ctx;
static libusb_device_handle *handle;
static struct stamps arrived;
static uint8_t *buffer;
static uint32_t last_lba, tag = 1;
static int verify, in_flight;
static double limit = 1e9;

static void die(const char *what, int r) {
    fprintf(stderr, "%s: %s (%d)\n", what, libusb_error_name(r), r);
    exit(9);
}
static void must(const char *what, int r) {
    if (r) die(what, r);
}
static void submit(struct libusb_transfer *t) {
    must("submit", libusb_submit_transfer(t));
    in_flight++;
}
static void handle_until(double end) {
    for (double left; (left = end - now()) > 0;)
        libusb_handle_events_timeout(ctx, &(struct timeval){left, (left - (time_t)left) * 1e6});
}

/* ---- mass storage ---------------------------------------------------------------------------------------------- */
static int bulk(int ep, uint8_t *data, int n) {
    int got = 0, r = libusb_bulk_transfer(handle, ep, data, n, &got, 5000);
    if (r == LIBUSB_ERROR_PIPE) r = libusb_clear_halt(handle, ep);
    must("bulk", r);
    return got;
}
static int command(uint8_t *cdb, int cdb_len, uint8_t *buf, int len, int in) {
    uint8_t cbw[31] = {0}, csw[13];
    int got = 0;
    memcpy(cbw, "USBC", 4);
    memcpy(cbw + 4, &tag, 4);
    memcpy(cbw + 8, &len, 4);
    cbw[12] = in ? 0x80 : 0, cbw[14] = cdb_len;
    memcpy(cbw + 15, cdb, cdb_len);
    bulk(EP_OUT, cbw, sizeof cbw);
    if (len) got = bulk(in ? EP_IN : EP_OUT, buf, len);
    if (bulk(EP_IN, csw, 13) != 13 && bulk(EP_IN, csw, 13) != 13) die("no CSW", 0);
    if (memcmp(csw, "USBS", 4) || memcmp(csw + 4, &tag, 4)) die("bad CSW", 0);
    tag++;
    return csw[12] ? -1 : got;
}
static int rw10(uint32_t lba, int bytes, uint8_t *buf, int in) {
    int n = bytes / BLOCK;
    uint8_t cdb[10] = {in ? 0x28 : 0x2a, 0, lba >> 24, lba >> 16, lba >> 8, lba, 0, n >> 8, n, 0};
    return command(cdb, sizeof cdb, buf, bytes, in);
}
static void msc_setup(void) {
    uint8_t capacity[10] = {0x25}, b[8];
    if (last_lba) return;
    command(capacity, 10, b, 8, 1);
    last_lba = (uint32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}
static int bytes_of(double kib) {
    int bytes = kib * 1024;
    if (bytes / BLOCK < 1 || bytes / BLOCK > 0xffff || bytes > BUFFER) die("that is no size of a READ(10), KIB", kib);
    return bytes;
}
static void sequential(int in, int bytes, double total, double seconds) {
    char name[32];
    uint32_t lba = 0;
    double got = 0, began = now(), making = 0;
    for (; got < total && now() - began < seconds; got += bytes) {
        if (!in) {
            double t = now();
            pattern(buffer, bytes, lba, 0);
            making += now() - t;
        }
        if (rw10(lba, bytes, buffer, in) != bytes) die("short", 0);
        if (in && verify && pattern_differs(buffer, bytes, lba, 0)) die("pattern differs", 0);
        lba += bytes / BLOCK;
        if (lba + bytes / BLOCK > last_lba + 1) lba = 0;
    }
    snprintf(name, sizeof name, "%s_%dk", in ? "seq" : "wseq", bytes / 1024);
    print_rate(name, got, now() - began - making, verify && in ? "verified" : "");
}
static void op_seq(const double *a) {
    msc_setup();
    sequential(1, bytes_of(a[0]), a[1] * 1048576, limit);
}
static void op_wseq(const double *a) {
    msc_setup();
    sequential(0, bytes_of(a[0]), a[1] * 1048576, limit);
}
static void op_rand(const double *a) {
    int bytes = bytes_of(a[0]), n = 0;
    double *l = malloc(a[1] * sizeof *l), end = now() + limit;
    char name[32];
    msc_setup();
    srand(1);
    for (; n < a[1] && now() < end; n++) {
        uint32_t lba = (rand() % (last_lba - bytes / BLOCK)) & ~7;
        double began = now();
        if (rw10(lba, bytes, buffer, 1) != bytes) die("short", 0);
        l[n] = now() - began;
        if (verify && pattern_differs(buffer, bytes, lba, 0)) die("pattern differs", 0);
    }
    snprintf(name, sizeof name, "rand_%dk", bytes / 1024);
    print_latencies(stdout, name, l, n, verify ? "verified" : "");
    free(l);
}
static void op_verify(const double *a) {
    (void)a;
    verify = 1;
}
static void op_ctrl(const double *a) {
    double *l = malloc(a[0] * sizeof *l), end = now() + limit;
    uint8_t b[18];
    int n = 0;
    for (; n < a[0] && now() < end; n++) {
        double began = now();
        if (libusb_control_transfer(handle, 0x80, 6, 0x100, 0, b, sizeof b, 5000) != sizeof b) die("control", 0);
        l[n] = now() - began;
    }
    print_latencies(stdout, "ctrl", l, n, "");
    free(l);
}

/* ---- streams: some URBs in flight all the time ----------------------------------------------------------------- */
#define MAX_URBS 16
static struct libusb_transfer *urbs[MAX_URBS];
static int n_urbs;

static void in_done(struct libusb_transfer *t) {
    uint64_t at = now_ns();
    in_flight--;
    if (t->status != LIBUSB_TRANSFER_COMPLETED) return;
    if (t->type == LIBUSB_TRANSFER_TYPE_INTERRUPT) take_report(&arrived, t->buffer, t->actual_length, at);
    for (int i = 0; i < t->num_iso_packets; i++)
        take_iso(&arrived, libusb_get_iso_packet_buffer_simple(t, i), t->iso_packet_desc[i].actual_length, at);
    submit(t);
}
static void stop_stream(void) {
    for (int i = 0; i < n_urbs; i++) libusb_cancel_transfer(urbs[i]);
    while (in_flight) libusb_handle_events(ctx);
    for (int i = 0; i < n_urbs; i++) {
        free(urbs[i]->buffer);
        libusb_free_transfer(urbs[i]);
    }
    stamps_clear(&arrived);
}
static int interrupt_endpoint(void) {
    struct libusb_config_descriptor *c;
    int found = 0;
    must("configuration", libusb_get_active_config_descriptor(libusb_get_device(handle), &c));
    for (int i = 0; i < c->bNumInterfaces; i++) {
        const struct libusb_endpoint_descriptor *e = c->interface[i].altsetting->endpoint;
        if (c->interface[i].altsetting->bNumEndpoints && (e->bmAttributes & 3) == LIBUSB_TRANSFER_TYPE_INTERRUPT)
            found = e->bEndpointAddress;
    }
    libusb_free_config_descriptor(c);
    if (!found) die("no interrupt endpoint", 0);
    return found;
}
static void start_reports(void) {
    int ep = interrupt_endpoint();
    for (n_urbs = 0; n_urbs < 5; n_urbs++) { /* as many as the hosts have */
        struct libusb_transfer *t = urbs[n_urbs] = libusb_alloc_transfer(0);
        libusb_fill_interrupt_transfer(t, handle, ep, malloc(REPORT_BYTES), REPORT_BYTES, in_done, NULL, 0);
        submit(t);
    }
}
static void stop_reports(void) {
    print_stamps(stdout, "hid", &arrived, "");
    stop_stream();
}
static void op_hid(const double *a) {
    start_reports();
    handle_until(now() + a[0]);
    stop_reports();
}
static void op_both(const double *a) {
    msc_setup();
    start_reports();
    sequential(1, bytes_of(a[1]), 1e18, a[0]);
    stop_reports();
}
static int open_iso(int ep, int packets, libusb_transfer_cb_fn callback) { /* allocates the URBs; a packet's bytes */
    int bytes = libusb_get_max_iso_packet_size(libusb_get_device(handle), ep);
    must("alt setting", libusb_set_interface_alt_setting(handle, 0, 1));
    n_urbs = iso_urbs(packets, ep == EP_OUT);
    for (int i = 0; i < n_urbs; i++) {
        struct libusb_transfer *t = urbs[i] = libusb_alloc_transfer(packets);
        libusb_fill_iso_transfer(t, handle, ep, malloc(bytes * packets), bytes * packets, packets, callback, NULL, 0);
        libusb_set_iso_packet_lengths(t, bytes);
    }
    return bytes;
}
static void close_iso(void) {
    stop_stream();
    must("alt setting", libusb_set_interface_alt_setting(handle, 0, 0));
}
static void op_iso(const double *a) {
    char name[48];
    int bytes = open_iso(EP_IN, a[1], in_done);
    for (int i = 0; i < n_urbs; i++) submit(urbs[i]);
    handle_until(now() + a[0]);
    snprintf(name, sizeof name, "iso_%dx%.0f", bytes, a[1]);
    print_stamps(stdout, name, &arrived, "");
    close_iso();
}
/* Packets go into one URB after the other, and half of these are filled before the first is started: what a host does
 * with a guest's packets, so that both have the same delay to begin with. */
static void out_done(struct libusb_transfer *t) {
    in_flight--;
    t->user_data = NULL;
}
static void op_isoout(const double *a) {
    uint32_t number = 0, total = a[0] * ISO_PER_SECOND, dropped = 0;
    int packets = a[1], bytes = open_iso(EP_OUT, packets, out_done), at = 0, filled = 0, sent = 0;
    double began = now();
    for (; number < total; handle_until(began + (double)number / ISO_PER_SECOND))
        for (int i = 0; i < ISO_BURST; i++, number++) {
            struct libusb_transfer *t = urbs[filled % n_urbs];
            if (t->user_data) { /* still in flight: the device is behind */
                dropped++;
                continue;
            }
            make_iso(t->buffer + at * bytes, bytes, number, now_ns());
            if (++at < packets) continue;
            at = 0, filled++;
            if (!in_flight && filled - sent < n_urbs / 2) continue;
            for (; sent < filled; sent++) {
                urbs[sent % n_urbs]->user_data = urbs;
                submit(urbs[sent % n_urbs]);
            }
        }
    double s = now() - began;
    printf("isoout_%dx%d packets=%u s=%.3f per_s=%.1f errors=%u\n", bytes, packets, number, s, number / s, dropped);
    close_iso();
}

/* ---- bulk, pipelined ------------------------------------------------------------------------------------------- */
struct message { int n; double sent; struct libusb_transfer *in, *out; };
static double *delays;
static int loop_bytes, n_out, n_back, failed;

static void loop_send(struct message *m) {
    m->n = n_out++;
    pattern(m->out->buffer, loop_bytes, m->n, 0);
    m->sent = now();
    submit(m->out);
    submit(m->in);
}
static void loop_out_done(struct libusb_transfer *t) { in_flight--, failed |= t->status; }
static void loop_in_done(struct libusb_transfer *t) {
    struct message *m = t->user_data;
    in_flight--;
    failed |= t->status || t->actual_length != loop_bytes || pattern_differs(t->buffer, loop_bytes, m->n, 0);
    delays[n_back++] = now() - m->sent;
}
static void op_loop(const double *a) {
    int count = a[1], depth = a[2];
    struct message *m = calloc(depth, sizeof *m);
    char name[48];
    delays = malloc(count * sizeof *delays), loop_bytes = a[0] * 1024, n_out = n_back = 0;
    for (int i = 0; i < depth; i++) {
        m[i].in = libusb_alloc_transfer(0), m[i].out = libusb_alloc_transfer(0);
        libusb_fill_bulk_transfer(m[i].in, handle, EP_IN, malloc(loop_bytes), loop_bytes, loop_in_done, &m[i], 0);
        libusb_fill_bulk_transfer(m[i].out, handle, EP_OUT, malloc(loop_bytes), loop_bytes, loop_out_done, &m[i], 0);
    }
    double began = now();
    while (n_back < count) {
        if (now() - began > limit && (count = n_out) == n_back) break;
        while (n_out < count && n_out - n_back < depth) loop_send(&m[n_out % depth]);
        libusb_handle_events(ctx);
        if (failed) die("loop", failed);
    }
    double s = now() - began;
    snprintf(name, sizeof name, "loop_%gk_d%d", loop_bytes / 1024., depth);
    print_rate(name, (double)loop_bytes * count, s, "verified");
    print_latencies(stdout, name, delays, count, "");
    printf("%s us_per_message=%.1f\n", name, s / count * 1e6);
    for (int i = 0; i < depth; i++) {
        m[i].in->flags = m[i].out->flags = LIBUSB_TRANSFER_FREE_BUFFER;
        libusb_free_transfer(m[i].in);
        libusb_free_transfer(m[i].out);
    }
    free(m);
    free(delays);
}
static void urb_done(struct libusb_transfer *t) {
    n_back++, failed |= t->status;
    if (n_out-- > 0) failed |= libusb_submit_transfer(t);
    else libusb_free_transfer(t);
}
static double processor_time(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}
static void op_urb(const double *a) {
    int bytes = a[0], count = a[1], depth = a[2], ep = epoll_create1(0);
    struct epoll_event events[8];
    struct timeval zero = {0, 0};
    const struct libusb_pollfd **fds = libusb_get_pollfds(ctx);
    for (int i = 0; fds[i]; i++) {
        struct epoll_event e = {.events = fds[i]->events, .data.fd = fds[i]->fd};
        epoll_ctl(ep, EPOLL_CTL_ADD, fds[i]->fd, &e);
    }
    libusb_free_pollfds(fds);
    double cpu = processor_time(), began = now();
    n_back = 0, n_out = count - depth; /* n_out: still to be submitted */
    for (int i = 0; i < depth; i++) {
        struct libusb_transfer *t = libusb_alloc_transfer(0);
        libusb_fill_bulk_transfer(t, handle, EP_IN, malloc(bytes), bytes, urb_done, NULL, 0);
        t->flags = LIBUSB_TRANSFER_FREE_BUFFER;
        must("submit", libusb_submit_transfer(t));
    }
    while (n_back < count) {
        epoll_wait(ep, events, 8, -1);
        libusb_handle_events_timeout(ctx, &zero);
        if (failed) die("urb", failed);
    }
    double s = now() - began;
    cpu = processor_time() - cpu;
    close(ep);
    printf("urb_%d_d%d us_per_urb=%.2f cpu_us=%.2f MBps=%.1f\n", bytes, depth, s / count * 1e6, cpu / count * 1e6,
           (double)bytes * count / s / 1e6);
}

static void claim_all(void) {
    struct libusb_config_descriptor *c;
    libusb_set_auto_detach_kernel_driver(handle, 1);
    must("configuration", libusb_get_active_config_descriptor(libusb_get_device(handle), &c));
    for (int i = 0; i < c->bNumInterfaces; i++) must("claim", libusb_claim_interface(handle, i));
    libusb_free_config_descriptor(c);
}

int main(int argc, char **argv) {
    static const struct op ops[] = {
        {"seq", 2, op_seq}, {"wseq", 2, op_wseq}, {"rand", 2, op_rand}, {"verify", 0, op_verify}, {"ctrl", 1, op_ctrl},
        {"hid", 1, op_hid}, {"both", 2, op_both}, {"iso", 2, op_iso}, {"isoout", 2, op_isoout}, {"loop", 3, op_loop},
        {"urb", 3, op_urb}, {0},
    };
    if (argc < 2 || run_ops(ops, argv + 1, 1)) return 2;
    if (getenv("LIMIT_S")) limit = atof(getenv("LIMIT_S"));
    setvbuf(stdout, NULL, _IOLBF, 0);
    prctl(PR_SET_TIMERSLACK, 1);
    buffer = malloc(BUFFER);
    must("init", libusb_init(&ctx));
    for (int product = 1; product <= LAST_PRODUCT && !handle; product++)
        handle = libusb_open_device_with_vid_pid(ctx, VENDOR, product);
    if (!handle) die("no device", 0);
    claim_all();
    run_ops(ops, argv + 1, 0);
    libusb_close(handle);
    libusb_exit(ctx);
    return 0;
}
