/* delayproxy: a TCP proxy on loopback that delays each direction by a fixed time and does not limit the bandwidth, for
 * round trips on a machine without netem.
 *
 *   delayproxy LISTEN_PORT TARGET_PORT DELAY_US     "listening" on stderr; one connection; a round trip takes twice the
 *                                                   delay more
 *
 * What is read is kept in memory until its time, and the reader never waits for the writer, so that the TCP windows on
 * both sides stay open.
 */
#define _GNU_SOURCE
#include "rig.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define CHUNK (256 << 10)
#define NEVER UINT64_MAX
struct chunk { struct chunk *next; uint64_t due; int len, off; char data[]; }; /* an empty one: the end */
struct direction { int from, to, ended; struct chunk *head, **tail; };

static int take(struct direction *d, uint64_t delay) { /* read what is there; 0: nothing more for now */
    static char buffer[CHUNK];
    ssize_t n = recv(d->from, buffer, CHUNK, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return 0;
    d->ended = n <= 0;
    if (n < 0) n = 0;
    struct chunk *c = malloc(sizeof *c + n);
    *c = (struct chunk){.due = now_ns() + delay, .len = n};
    memcpy(c->data, buffer, n);
    *d->tail = c, d->tail = &c->next;
    return !d->ended;
}
static int give(struct direction *d, uint64_t now) { /* write what is due; 1: the socket is full */
    struct chunk *c;
    while ((c = d->head) && c->due <= now) {
        if (!c->len) shutdown(d->to, SHUT_WR);
        while (c->off < c->len) {
            ssize_t n = send(d->to, c->data + c->off, c->len - c->off, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n < 0 && errno == EAGAIN) return 1;
            if (n < 0) exit(0); /* the other side is gone */
            c->off += n;
        }
        if (!(d->head = c->next)) d->tail = &d->head;
        free(c);
    }
    return 0;
}
static void run(struct direction *d, uint64_t delay) {
    for (;;) {
        struct pollfd pf[2] = {{.fd = d[0].from}, {.fd = d[1].from}};
        uint64_t at = now_ns(), next = NEVER;
        for (int i = 0; i < 2; i++) {
            if (give(&d[i], at)) pf[!i].events |= POLLOUT;
            else if (d[i].head && d[i].head->due < next) next = d[i].head->due;
            if (!d[i].ended) pf[i].events |= POLLIN;
        }
        if (d[0].ended && d[1].ended && !d[0].head && !d[1].head) return;
        for (int i = 0; i < 2; i++)
            if (!pf[i].events) pf[i].fd = -1; /* else poll reports its end all the time */
        at = now_ns();
        uint64_t wait = next > at ? next - at : 0;
        struct timespec ts = {wait / 1000000000, wait % 1000000000};
        if (ppoll(pf, 2, next == NEVER ? NULL : &ts, NULL) < 0 && errno != EINTR) exit(1);
        for (int i = 0; i < 2; i++)
            if (pf[i].revents & (POLLIN | POLLHUP | POLLERR))
                while (!d[i].ended && take(&d[i], delay)) continue;
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), up = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    prctl(PR_SET_TIMERSLACK, 1);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1)) {
        perror("bind");
        return 2;
    }
    fprintf(stderr, "listening\n");
    int down = accept(listener, NULL, NULL);
    address.sin_port = htons(atoi(argv[2]));
    if (connect(up, (void *)&address, sizeof address)) {
        perror("connect");
        return 2;
    }
    setsockopt(up, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(down, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct direction d[2] = {{.from = down, .to = up}, {.from = up, .to = down}};
    d[0].tail = &d[0].head, d[1].tail = &d[1].head;
    run(d, strtoull(argv[3], NULL, 0) * 1000);
    return 0;
}
