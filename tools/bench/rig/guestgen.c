/* guestgen: a usbredir guest at native speed, on the C library libusbredirparser.
 *
 * It stands where QEMU's usb-redir stands: it accepts one usbredir host (usbbridge, usbredirect, the bytes of a SPICE
 * USBREDIR channel), waits for its device, and drives it the way a guest's kernel does, so that hosts can be compared
 * on the same work. Mass storage is driven by Bulk-Only Transport: command, data in one URB, status.
 *
 *   guestgen PORT|unix:PATH OP NUMBER ...    "listening" on stderr, then one result line an operation on stdout
 *     seq KIB TOTAL_MIB      sequential READ(10) of KIB each         wseq KIB TOTAL_MIB  the same, WRITE(10)
 *     rand KIB COUNT         random READ(10), each one's latency     ctrl COUNT          GET_DESCRIPTOR's latency
 *     verify                 from here on reads are compared with fakeusb's pattern, and wseq writes another, reads it
 *                            back and restores the first, untimed
 *     hid SECONDS            interrupt receiving: each report's delay from its stamp, lost and duplicate ones
 *     both SECONDS KIB       hid, and meanwhile READ(10) of KIB each, back to back: both lines
 *     iso SECONDS PACKETS    isochronous IN in alternate setting 1, PACKETS an URB and as many URBs as QEMU asks for:
 *                            each packet's delay, lost and duplicate ones
 *     isoout SECONDS PACKETS the same with OUT: sends 8000 packets a second, in bursts of a millisecond, each stamped
 *                            with the time it is made at; what became of them fakeusb reports. errors: what the host
 *                            said meanwhile that was no success
 *     loop KIB COUNT DEPTH   bulk loopback with DEPTH messages in flight, verified (KIB may be 0.5)
 *   Each needs fakeusb's device of a model that has the function.
 *
 *   LIMIT_S=SECONDS  ends each of seq, wseq, rand, ctrl and loop early; rates are over what was done
 *   HOLD=1           say "done" after the last operation, and keep the connection until the standard input ends
 *   SEGMENT=BYTES    cut the data stage into URBs of that size, all queued at once
 *   ALLOW_SHORT=1    go on after a short read: fakeusb injects them
 */
#define _GNU_SOURCE
#include "rig.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <usbredirparser.h>

#define SLOTS 1024
#define PATIENCE 30.0 /* for any answer of the host, in seconds */
#define BUFFER (64 << 20)
#define BLOCK 512

static struct usbredirparser *parser;
static int fd = -1, connected, got_ep, ep_in, ep_out, ep_int, iso_in, iso_out, iso_bytes[2];
static struct slot { uint64_t id; int over, status, len; uint8_t *data; } slots[SLOTS]; /* of requests, by id % SLOTS */
static uint64_t next_id = 1;
static int stream_status, stream_errors; /* the latest status of a stream; how many were no success */
static struct stamps arrived;
static uint8_t *buffer;
static uint32_t last_lba, tag = 1;
static int verify, segment, allow_short;
static double limit = 1e9;

static void die(const char *what, int status) {
    fprintf(stderr, "%s (%d)\n", what, status);
    exit(9);
}

/* ---- what the host says ---------------------------------------------------------------------------------------- */
static void on_log(void *p, int level, const char *text) {
    (void)p;
    if (level <= usbredirparser_warning) fprintf(stderr, "parser: %s\n", text);
}
static int on_read(void *p, uint8_t *data, int n) {
    (void)p;
    ssize_t r = recv(fd, data, n, MSG_DONTWAIT);
    if (r == 0) {
        fprintf(stderr, "peer closed\n");
        exit(3);
    }
    return r > 0 ? r : errno == EAGAIN ? 0 : -1;
}
static int on_write(void *p, uint8_t *data, int n) {
    (void)p;
    ssize_t r = send(fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    return r >= 0 ? r : errno == EAGAIN ? 0 : -1;
}
static void on_hello(void *p, struct usb_redir_hello_header *h) {
    (void)p;
    fprintf(stderr, "peer hello: %.60s\n", h->version);
}
static void on_connect(void *p, struct usb_redir_device_connect_header *h) {
    (void)p;
    connected = 1;
    fprintf(stderr, "device_connect %04x:%04x speed %d\n", h->vendor_id, h->product_id, h->speed);
}
static void on_disconnect(void *p) {
    (void)p;
    fprintf(stderr, "device_disconnect\n");
    exit(4);
}
static void on_interfaces(void *p, struct usb_redir_interface_info_header *h) { (void)p, (void)h; }
static void on_endpoints(void *p, struct usb_redir_ep_info_header *h) { /* the first of each kind */
    (void)p;
    ep_in = ep_out = ep_int = iso_in = iso_out = 0;
    for (int i = 0; i < 32; i++) {
        int in = i & 16, address = in << 3 | (i & 15);
        switch (h->type[i]) {
        case usb_redir_type_bulk:
            if (in && !ep_in) ep_in = address;
            if (!in && !ep_out) ep_out = address;
            break;
        case usb_redir_type_interrupt:
            if (in && !ep_int) ep_int = address;
            break;
        case usb_redir_type_iso:
            if (in && !iso_in) iso_in = address, iso_bytes[0] = h->max_packet_size[i];
            if (!in && !iso_out) iso_out = address, iso_bytes[1] = h->max_packet_size[i];
            break;
        }
    }
    got_ep = 1;
}
static void answered(uint64_t id, int status, uint8_t *data, int n) {
    struct slot *s = &slots[id % SLOTS];
    if (s->id == id) *s = (struct slot){id, 1, status, n, data};
    else usbredirparser_free_packet_data(parser, data);
}
static void on_bulk(void *p, uint64_t id, struct usb_redir_bulk_packet_header *h, uint8_t *data, int n) {
    (void)p;
    answered(id, h->status, data, h->endpoint & 0x80 ? n : h->length | h->length_high << 16);
}
static void on_control(void *p, uint64_t id, struct usb_redir_control_packet_header *h, uint8_t *data, int n) {
    (void)p;
    answered(id, h->status, data, n);
}
static void on_configuration(void *p, uint64_t id, struct usb_redir_configuration_status_header *h) {
    (void)p;
    answered(id, h->status, NULL, 0);
}
static void on_alt(void *p, uint64_t id, struct usb_redir_alt_setting_status_header *h) {
    (void)p;
    answered(id, h->status, NULL, 0);
}
static void on_stream_status(int status) {
    stream_status = status;
    stream_errors += status != usb_redir_success;
}
static void on_interrupt_status(void *p, uint64_t id, struct usb_redir_interrupt_receiving_status_header *h) {
    (void)p, (void)id;
    on_stream_status(h->status);
}
static void on_iso_status(void *p, uint64_t id, struct usb_redir_iso_stream_status_header *h) {
    (void)p, (void)id;
    on_stream_status(h->status);
}
static void on_interrupt(void *p, uint64_t id, struct usb_redir_interrupt_packet_header *h, uint8_t *data, int n) {
    (void)p, (void)id;
    if (h->status) arrived.bad++;
    else take_report(&arrived, data, n, now_ns());
    usbredirparser_free_packet_data(parser, data);
}
static void on_iso(void *p, uint64_t id, struct usb_redir_iso_packet_header *h, uint8_t *data, int n) {
    (void)p, (void)id;
    if (h->status) arrived.bad++;
    else take_iso(&arrived, data, n, now_ns());
    usbredirparser_free_packet_data(parser, data);
}

/* ---- requests and answers -------------------------------------------------------------------------------------- */
static int pump(double seconds) { /* send what is queued, wait so long for something and take it in; 0: nothing came */
    struct pollfd pf = {fd, POLLIN, 0};
    struct timespec ts = {seconds, (seconds - (time_t)seconds) * 1e9};
    if (usbredirparser_has_data_to_write(parser) && usbredirparser_do_write(parser) < 0) die("write error", errno);
    if (usbredirparser_has_data_to_write(parser)) pf.events |= POLLOUT;
    if (ppoll(&pf, 1, &ts, NULL) <= 0) return 0;
    if (!(pf.revents & (POLLIN | POLLHUP))) return 1;
    int r = usbredirparser_do_read(parser);
    if (r == usbredirparser_read_io_error) die("read error", errno);
    if (r == usbredirparser_read_parse_error) die("PARSE ERROR from peer", r);
    return 1;
}
static void pump_until(double end) {
    for (double left; (left = end - now()) > 0;) pump(left);
}
static uint64_t new_id(void) {
    uint64_t id = next_id++;
    slots[id % SLOTS] = (struct slot){.id = id};
    return id;
}
static struct slot *answer(uint64_t id) {
    struct slot *s = &slots[id % SLOTS];
    while (!s->over)
        if (!pump(PATIENCE)) die("timeout", 0);
    return s;
}
static int status_of(uint64_t id) { /* where the data don't matter */
    struct slot *s = answer(id);
    usbredirparser_free_packet_data(parser, s->data);
    return s->status;
}
static uint64_t bulk(int ep, uint8_t *data, int n) {
    struct usb_redir_bulk_packet_header h = {.endpoint = ep, .length = n & 0xffff, .length_high = n >> 16};
    uint64_t id = new_id();
    int in = ep & 0x80;
    usbredirparser_send_bulk_packet(parser, id, &h, in ? NULL : data, in ? 0 : n);
    return id;
}
static void set_configuration(int value) {
    struct usb_redir_set_configuration_header h = {.configuration = value};
    uint64_t id = new_id();
    usbredirparser_send_set_configuration(parser, id, &h);
    if (status_of(id)) die("set_configuration", value);
}
static void set_alt(int alt) {
    struct usb_redir_set_alt_setting_header h = {.interface = 0, .alt = alt};
    uint64_t id = new_id();
    usbredirparser_send_set_alt_setting(parser, id, &h);
    if (status_of(id)) die("set_alt_setting", alt);
}
static int clear_stall(int ep) {
    struct usb_redir_control_packet_header h = {.requesttype = 2, .request = 1, .index = ep};
    uint64_t id = new_id();
    usbredirparser_send_control_packet(parser, id, &h, NULL, 0);
    return status_of(id);
}

/* ---- mass storage ---------------------------------------------------------------------------------------------- */
static int data_stage(uint8_t *buf, int len, int in) { /* in URBs of `segment` bytes, if that is set */
    int step = segment ? segment : len, urbs = (len + step - 1) / step, got = 0, stalled = 0;
    uint64_t id[SLOTS / 2];
    if (urbs > SLOTS / 2) die("SEGMENT too small", segment);
    for (int i = 0, off = 0; i < urbs; i++, off += step)
        id[i] = bulk(in ? ep_in : ep_out, buf + off, len - off < step ? len - off : step);
    for (int i = 0; i < urbs; i++) {
        struct slot *s = answer(id[i]);
        if (s->status == usb_redir_stall) stalled = 1;
        else if (s->status) die("data status", s->status);
        if (in && s->len) memcpy(buf + got, s->data, s->len);
        got += s->len;
        usbredirparser_free_packet_data(parser, s->data);
    }
    if (stalled && clear_stall(in ? ep_in : ep_out)) die("clear stall", 0);
    return got;
}
/* One SCSI command by Bulk-Only Transport: its data's length, -1 if it failed; dies of a broken transport. */
static int command(uint8_t *cdb, int cdb_len, uint8_t *buf, int len, int in) {
    uint8_t cbw[31] = {0};
    memcpy(cbw, "USBC", 4);
    memcpy(cbw + 4, &tag, 4);
    memcpy(cbw + 8, &len, 4);
    cbw[12] = in ? 0x80 : 0, cbw[14] = cdb_len;
    memcpy(cbw + 15, cdb, cdb_len);
    int status = status_of(bulk(ep_out, cbw, sizeof cbw));
    if (status == usb_redir_stall && !clear_stall(ep_out)) status = status_of(bulk(ep_out, cbw, sizeof cbw)); /* once */
    if (status) die("CBW status", status);
    int got = len ? data_stage(buf, len, in) : 0;
    struct slot *csw = answer(bulk(ep_in, NULL, 13));
    if (csw->status == usb_redir_stall && !clear_stall(ep_in)) csw = answer(bulk(ep_in, NULL, 13));
    uint8_t *d = csw->data;
    if (csw->status || csw->len != 13 || memcmp(d, "USBS", 4) || memcmp(d + 4, &tag, 4) || d[12] > 1)
        die("bad CSW, status", csw->status);
    int failed = d[12];
    usbredirparser_free_packet_data(parser, d);
    tag++;
    return failed ? -1 : got;
}
static int rw10(uint32_t lba, int bytes, uint8_t *buf, int in) {
    int n = bytes / BLOCK;
    uint8_t cdb[10] = {in ? 0x28 : 0x2a, 0, lba >> 24, lba >> 16, lba >> 8, lba, 0, n >> 8, n, 0};
    return command(cdb, sizeof cdb, buf, bytes, in);
}
static void msc_setup(void) { /* once, and as a guest's driver does it */
    uint8_t inquiry[6] = {0x12, 0, 0, 0, 36, 0}, ready[6] = {0}, sense[6] = {3, 0, 0, 0, 18, 0};
    uint8_t capacity[10] = {0x25}, b[64];
    if (last_lba) return;
    command(inquiry, 6, b, 36, 1);
    for (int i = 0; i < 5 && command(ready, 6, NULL, 0, 1) < 0; i++) command(sense, 6, b, 18, 1);
    command(capacity, 10, b, 8, 1);
    last_lba = (uint32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}
static int bytes_of(double kib) {
    int bytes = kib * 1024;
    if (bytes / BLOCK < 1 || bytes / BLOCK > 0xffff || bytes > BUFFER) die("that is no size of a READ(10), KIB", kib);
    return bytes;
}
/* Commands one after the other, from the disk's beginning again after its end; a line, if it is `timed`. The bytes. */
static double sequential(int in, int bytes, double total, double seconds, int flip, int timed) {
    char name[32];
    uint32_t lba = 0;
    long bad = 0;
    double got = 0, began = now(), making = 0;
    while (got < total && now() - began < seconds) {
        if (!in) {
            double t = now();
            pattern(buffer, bytes, lba, flip);
            making += now() - t;
        }
        int r = rw10(lba, bytes, buffer, in);
        if (r != bytes && !allow_short) die("short, bytes", r);
        if (r == bytes && in && verify) bad += pattern_differs(buffer, bytes, lba, flip);
        got += r > 0 ? r : bytes; /* a fault was injected: go on */
        lba += bytes / BLOCK;
        if (lba + bytes / BLOCK > last_lba + 1) lba = 0;
    }
    if (bad) die("pattern differs, commands", bad);
    snprintf(name, sizeof name, "%s_%dk", in ? "seq" : "wseq", bytes / 1024);
    if (timed) print_rate(name, got, now() - began - making, verify && in ? "verified" : "");
    return got;
}
static void op_seq(const double *a) {
    msc_setup();
    sequential(1, bytes_of(a[0]), a[1] * 1048576, limit, 0, 1);
}
static void op_wseq(const double *a) {
    int bytes = bytes_of(a[0]);
    msc_setup();
    double written = sequential(0, bytes, a[1] * 1048576, limit, verify, 1);
    double whole = (last_lba + 1ll) * BLOCK / bytes * bytes, again = written < whole ? written : whole;
    if (!verify) return;
    sequential(1, bytes, again, 1e9, 1, 0);
    sequential(0, bytes, again, 1e9, 0, 0);
    printf("wseq_%dk read back: verified\n", bytes / 1024);
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
        if (rw10(lba, bytes, buffer, 1) != bytes) die("short read", bytes);
        l[n] = now() - began;
        if (verify && pattern_differs(buffer, bytes, lba, 0)) die("pattern differs at", lba);
    }
    snprintf(name, sizeof name, "rand_%dk", bytes / 1024);
    print_latencies(stdout, name, l, n, verify ? "verified" : "");
    free(l);
}
static void op_verify(const double *a) {
    (void)a;
    verify = 1;
}

/* ---- control --------------------------------------------------------------------------------------------------- */
static void op_ctrl(const double *a) {
    double *l = malloc(a[0] * sizeof *l), end = now() + limit;
    int n = 0;
    for (; n < a[0] && now() < end; n++) {
        struct usb_redir_control_packet_header h = {
            .endpoint = 0x80, .request = 6, .requesttype = 0x80, .value = 0x100, .index = 0, .length = 18};
        double began = now();
        uint64_t id = new_id();
        usbredirparser_send_control_packet(parser, id, &h, NULL, 0);
        struct slot *s = answer(id);
        l[n] = now() - began;
        if (s->status || s->len != 18) die("control status", s->status);
        usbredirparser_free_packet_data(parser, s->data);
    }
    print_latencies(stdout, "ctrl", l, n, "");
    free(l);
}

/* ---- streams --------------------------------------------------------------------------------------------------- */
static void started(const char *what) {
    stream_status = -1;
    while (stream_status < 0)
        if (!pump(PATIENCE)) die("timeout", 0);
    if (stream_status) die(what, stream_status);
    stream_errors = 0;
    stamps_clear(&arrived); /* of what came after the last stream's stop was sent */
}
static void stopped(void) { /* there may still be word of an URB before */
    stream_status = -1;
    while (stream_status != usb_redir_success)
        if (!pump(PATIENCE)) die("timeout", 0);
}
static void start_reports(void) {
    struct usb_redir_start_interrupt_receiving_header h = {.endpoint = ep_int};
    if (!ep_int) die("no interrupt endpoint", 0);
    usbredirparser_send_start_interrupt_receiving(parser, new_id(), &h);
    started("start_interrupt_receiving status");
}
static void stop_reports(void) {
    struct usb_redir_stop_interrupt_receiving_header h = {.endpoint = ep_int};
    print_stamps(stdout, "hid", &arrived, "");
    usbredirparser_send_stop_interrupt_receiving(parser, new_id(), &h);
    stopped();
}
static void op_hid(const double *a) {
    start_reports();
    pump_until(now() + a[0]);
    stop_reports();
}
static void op_both(const double *a) {
    msc_setup();
    start_reports();
    sequential(1, bytes_of(a[1]), 1e18, a[0], 0, 1);
    stop_reports();
}
static void start_iso(int ep, int packets) {
    struct usb_redir_start_iso_stream_header h = {
        .endpoint = ep, .pkts_per_urb = packets, .no_urbs = iso_urbs(packets, !(ep & 0x80))};
    if (!ep) die("no isochronous endpoint of that direction", 0);
    usbredirparser_send_start_iso_stream(parser, new_id(), &h);
    started("start_iso_stream status");
}
static void stop_iso(int ep) {
    struct usb_redir_stop_iso_stream_header h = {.endpoint = ep};
    usbredirparser_send_stop_iso_stream(parser, new_id(), &h);
    stopped();
}
static void op_iso(const double *a) {
    char name[48];
    set_alt(1);
    start_iso(iso_in, a[1]);
    pump_until(now() + a[0]);
    snprintf(name, sizeof name, "iso_%dx%.0f", iso_bytes[0], a[1]);
    print_stamps(stdout, name, &arrived, "");
    stop_iso(iso_in);
    set_alt(0);
}
static void op_isoout(const double *a) {
    uint32_t number = 0, total = a[0] * ISO_PER_SECOND;
    set_alt(1);
    start_iso(iso_out, a[1]);
    struct usb_redir_iso_packet_header h = {.endpoint = iso_out, .length = iso_bytes[1]};
    double began = now();
    while (number < total) {
        for (int i = 0; i < ISO_BURST; i++, number++) {
            make_iso(buffer, iso_bytes[1], number, now_ns());
            usbredirparser_send_iso_packet(parser, number, &h, buffer, iso_bytes[1]);
            if (usbredirparser_do_write(parser) < 0) die("write error", errno); /* each by itself, as QEMU does */
        }
        pump_until(began + (double)number / ISO_PER_SECOND);
    }
    double s = now() - began;
    printf("isoout_%dx%.0f packets=%u s=%.3f per_s=%.1f errors=%d\n", iso_bytes[1], a[1], number, s, number / s,
           stream_errors);
    stop_iso(iso_out);
    set_alt(0);
}

/* ---- bulk, pipelined ------------------------------------------------------------------------------------------- */
static void op_loop(const double *a) {
    int bytes = a[0] * 1024, count = a[1], depth = a[2], out = 0, back = 0;
    double *l = malloc(count * sizeof *l), *sent = malloc(count * sizeof *sent), began = now();
    uint64_t *reading = malloc(count * sizeof *reading);
    char name[48];
    if (bytes < 8 || bytes > BUFFER || depth > SLOTS / 4) die("that is no message, or too many at once", depth);
    while (back < count) {
        if (now() - began > limit && (count = out) == back) break;
        for (; out < count && out - back < depth; out++) {
            pattern(buffer, bytes, out, 0);
            sent[out] = now();
            bulk(ep_out, buffer, bytes); /* nobody waits for its status: a stall shows on the way back */
            reading[out] = bulk(ep_in, NULL, bytes);
        }
        struct slot *s = answer(reading[back]);
        if (s->status || s->len != bytes || pattern_differs(s->data, bytes, back, 0)) die("loop, message", back);
        l[back] = now() - sent[back];
        usbredirparser_free_packet_data(parser, s->data);
        back++;
    }
    double s = now() - began;
    snprintf(name, sizeof name, "loop_%gk_d%d", bytes / 1024., depth);
    print_rate(name, (double)bytes * count, s, "verified");
    print_latencies(stdout, name, l, count, "");
    printf("%s us_per_message=%.1f\n", name, s / count * 1e6);
    free(l);
    free(sent);
    free(reading);
}

/* ---- the connection -------------------------------------------------------------------------------------------- */
static int accept_at(const char *where) {
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_port = htons(atoi(where))};
    int one = 1, on_unix = !strncmp(where, "unix:", 5), listener = socket(on_unix ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
    tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (on_unix) {
        snprintf(local.sun_path, sizeof local.sun_path, "%s", where + 5);
        unlink(local.sun_path);
    }
    int bound = on_unix ? bind(listener, (void *)&local, sizeof local) : bind(listener, (void *)&tcp, sizeof tcp);
    if (bound || listen(listener, 1)) {
        perror("bind");
        exit(2);
    }
    fprintf(stderr, "listening\n");
    int s = accept(listener, NULL, NULL);
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return s;
}
static void connect_parser(void) {
    static const int cap[] = {usb_redir_cap_connect_device_version, usb_redir_cap_filter,
        usb_redir_cap_device_disconnect_ack, usb_redir_cap_ep_info_max_packet_size, usb_redir_cap_64bits_ids,
        usb_redir_cap_32bits_bulk_length, usb_redir_cap_bulk_streams, usb_redir_cap_bulk_receiving};
    uint32_t caps[USB_REDIR_CAPS_SIZE] = {0};
    parser = usbredirparser_create();
    parser->log_func = on_log;
    parser->read_func = on_read;
    parser->write_func = on_write;
    parser->hello_func = on_hello;
    parser->device_connect_func = on_connect;
    parser->device_disconnect_func = on_disconnect;
    parser->interface_info_func = on_interfaces;
    parser->ep_info_func = on_endpoints;
    parser->configuration_status_func = on_configuration;
    parser->alt_setting_status_func = on_alt;
    parser->bulk_packet_func = on_bulk;
    parser->control_packet_func = on_control;
    parser->interrupt_packet_func = on_interrupt;
    parser->interrupt_receiving_status_func = on_interrupt_status;
    parser->iso_packet_func = on_iso;
    parser->iso_stream_status_func = on_iso_status;
    for (unsigned i = 0; i < sizeof cap / sizeof *cap; i++) usbredirparser_caps_set_cap(caps, cap[i]);
    usbredirparser_init(parser, "guestgen", caps, USB_REDIR_CAPS_SIZE, 0);
}
static void hold(void) {
    char c;
    puts("done");
    while (read(STDIN_FILENO, &c, 1) > 0) continue;
}

int main(int argc, char **argv) {
    static const struct op ops[] = {
        {"seq", 2, op_seq}, {"wseq", 2, op_wseq}, {"rand", 2, op_rand}, {"verify", 0, op_verify}, {"ctrl", 1, op_ctrl},
        {"hid", 1, op_hid}, {"both", 2, op_both}, {"iso", 2, op_iso}, {"isoout", 2, op_isoout}, {"loop", 3, op_loop},
        {0},
    };
    if (argc < 2 || run_ops(ops, argv + 2, 1)) return 2;
    if (getenv("SEGMENT")) segment = atoi(getenv("SEGMENT"));
    if (getenv("LIMIT_S")) limit = atof(getenv("LIMIT_S"));
    allow_short = getenv("ALLOW_SHORT") != NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    prctl(PR_SET_TIMERSLACK, 1); /* isoout keeps time */
    buffer = malloc(BUFFER);
    fd = accept_at(argv[1]);
    double began = now();
    connect_parser();
    while (!(connected && got_ep))
        if (!pump(PATIENCE)) die("no device", 0);
    printf("connect_ms=%.1f in=%02x out=%02x int=%02x\n", (now() - began) * 1e3, ep_in, ep_out, ep_int);
    set_configuration(1);
    run_ops(ops, argv + 2, 0);
    if (getenv("HOLD")) hold();
    return 0;
}
