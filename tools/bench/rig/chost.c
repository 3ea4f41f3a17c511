/* chost: the smallest usbredir host in C: libusbredirhost, one thread, one poll loop, TCP_NODELAY.
 *
 *   LD_LIBRARY_PATH=BUILD/fakeusb chost VID:PID PORT      connects to 127.0.0.1, ends with the connection
 *
 * A second C peer beside usbredirect 0.13, which polls for POLLOUT all the time (it spins on one processor) and leaves
 * Nagle's algorithm on: what those two cost is the difference between the two programs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <usbredirhost.h>

#define MAX_FDS 16
static int fd, gone;

static void on_log(void *p, int level, const char *text) {
    (void)p, (void)level;
    fprintf(stderr, "%s\n", text);
}
static int on_read(void *p, uint8_t *data, int n) {
    (void)p;
    ssize_t r = recv(fd, data, n, MSG_DONTWAIT);
    if (r == 0) gone = 1;
    return r > 0 ? r : r < 0 && errno == EAGAIN ? 0 : -1;
}
static int on_write(void *p, uint8_t *data, int n) {
    (void)p;
    ssize_t r = send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    return r >= 0 ? r : errno == EAGAIN ? 0 : -1;
}
static int list_fds(libusb_context *ctx, struct usbredirhost *host, struct pollfd *fds) {
    const struct libusb_pollfd **of_libusb = libusb_get_pollfds(ctx);
    int n = 1;
    fds[0] = (struct pollfd){fd, POLLIN | (usbredirhost_has_data_to_write(host) ? POLLOUT : 0), 0};
    for (; of_libusb[n - 1] && n < MAX_FDS; n++)
        fds[n] = (struct pollfd){of_libusb[n - 1]->fd, of_libusb[n - 1]->events, 0};
    libusb_free_pollfds(of_libusb);
    return n;
}
static void serve(libusb_context *ctx, struct usbredirhost *host) {
    struct timeval zero = {0, 0};
    while (!gone) {
        struct pollfd fds[MAX_FDS];
        int ready = poll(fds, list_fds(ctx, host, fds), -1), of_guest = fds[0].revents != 0;
        if (ready < 0) return;
        if (fds[0].revents & (POLLIN | POLLHUP) && usbredirhost_read_guest_data(host) < 0) return;
        if (ready > of_guest) libusb_handle_events_timeout(ctx, &zero);
        if (usbredirhost_has_data_to_write(host) && usbredirhost_write_guest_data(host) < 0) return;
    }
}

int main(int argc, char **argv) {
    unsigned vendor, product;
    libusb_context *ctx;
    if (argc != 3 || sscanf(argv[1], "%x:%x", &vendor, &product) != 2 || libusb_init(&ctx)) return 2;
    libusb_device_handle *device = libusb_open_device_with_vid_pid(ctx, vendor, product);
    if (!device) {
        fprintf(stderr, "no device %s\n", argv[1]);
        return 1;
    }
    struct sockaddr_in guest = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    guest.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&guest, sizeof guest)) {
        perror("connect");
        return 1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct usbredirhost *host =
        usbredirhost_open(ctx, device, on_log, on_read, on_write, NULL, "chost", usbredirparser_warning, 0);
    if (!host) return 1;
    serve(ctx, host);
    usbredirhost_close(host);
    libusb_exit(ctx);
    return 0;
}
