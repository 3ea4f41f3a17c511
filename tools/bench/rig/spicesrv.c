/* spicesrv: a real SPICE server (libspice-server) without a VM, at native speed.
 *
 *   spicesrv [-p PORT] [-t PORT -c DIR] [-w PASSWORD] -u TARGET ...
 *     -p PORT       plain port on 127.0.0.1, 5950 if not given; 0: none
 *     -t PORT       TLS port, with ca-cert.pem, server-cert.pem and server-key.pem of -c DIR
 *     -w PASSWORD   the ticket that clients need; by default none
 *     -u TARGET     a usbredir channel; may be repeated. When a client opens it, spicesrv connects to TARGET, a port of
 *                   127.0.0.1 or unix:PATH, where guestgen listens
 *   "ready" on stderr, then a line an event. SIGTERM ends it. As with any SPICE server, a second client ends the first
 *   one's session.
 */
#define _GNU_SOURCE
#include "rig.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <spice.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LOG(...) fprintf(stderr, __VA_ARGS__)
#define MAX_CHANNELS 64
#define STALL_MS 2 /* how long not to poll a guest that the server reads nothing from */

static SpiceServer *server;
static volatile sig_atomic_t quit;

/* ---- the main loop that libspice-server wants, over epoll ------------------------------------------------------ */
struct SpiceWatch { int fd, mask, dead; SpiceWatchFunc call; void *data; SpiceWatch *next_dead; };
struct SpiceTimer { double at; int on, dead; SpiceTimerFunc call; void *data; SpiceTimer *next; };
static int epoll_fd;
static SpiceWatch *dead_watches;
static SpiceTimer *timers;

static struct epoll_event event_of(SpiceWatch *w) {
    int events = (w->mask & SPICE_WATCH_EVENT_READ ? EPOLLIN : 0) | (w->mask & SPICE_WATCH_EVENT_WRITE ? EPOLLOUT : 0);
    return (struct epoll_event){.events = events, .data.ptr = w};
}
static SpiceWatch *watch_add(int fd, int mask, SpiceWatchFunc call, void *data) {
    SpiceWatch *w = malloc(sizeof *w);
    *w = (SpiceWatch){.fd = fd, .mask = mask, .call = call, .data = data};
    struct epoll_event e = event_of(w);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e)) perror("epoll_ctl");
    return w;
}
static void watch_update(SpiceWatch *w, int mask) {
    if (w->mask == mask) return;
    w->mask = mask;
    struct epoll_event e = event_of(w);
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, w->fd, &e);
}
static void watch_remove(SpiceWatch *w) { /* freed later: an event of it may have been taken already */
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    w->dead = 1;
    w->next_dead = dead_watches, dead_watches = w;
}
static SpiceTimer *timer_add(SpiceTimerFunc call, void *data) {
    SpiceTimer *t = malloc(sizeof *t);
    *t = (SpiceTimer){.call = call, .data = data, .next = timers};
    return timers = t;
}
static void timer_start(SpiceTimer *t, uint32_t ms) { t->at = now() + ms * 1e-3, t->on = 1; }
static void timer_cancel(SpiceTimer *t) { t->on = 0; }
static void timer_remove(SpiceTimer *t) { t->on = 0, t->dead = 1; }
static void channel_event(int event, SpiceChannelEventInfo *i) {
    const char *how = i->flags & SPICE_CHANNEL_EVENT_FLAG_TLS ? " by TLS" : "";
    if (event == SPICE_CHANNEL_EVENT_CONNECTED) return; /* what it is to be, the client has not said yet */
    LOG("channel %d:%d %s%s\n", i->type, i->id, event == SPICE_CHANNEL_EVENT_INITIALIZED ? "open" : "closed", how);
}
static SpiceCoreInterface core = {
    .base = {SPICE_INTERFACE_CORE, "spicesrv", SPICE_INTERFACE_CORE_MAJOR, SPICE_INTERFACE_CORE_MINOR},
    .timer_add = timer_add,
    .timer_start = timer_start,
    .timer_cancel = timer_cancel,
    .timer_remove = timer_remove,
    .watch_add = watch_add,
    .watch_update_mask = watch_update,
    .watch_remove = watch_remove,
    .channel_event = channel_event,
};
static void call_watch(SpiceWatch *w, uint32_t events) {
    int over = events & (EPOLLHUP | EPOLLERR), mask = 0;
    if (events & EPOLLIN || over) mask |= SPICE_WATCH_EVENT_READ;
    if (events & (EPOLLOUT | EPOLLERR)) mask |= SPICE_WATCH_EVENT_WRITE;
    mask &= w->mask;
    if (!mask && over) mask = SPICE_WATCH_EVENT_READ; /* it comes whatever is asked for: it has to be told */
    if (mask && !w->dead) w->call(w->fd, mask, w->data);
}
static void call_timers(void) {
    double at = now();
    for (SpiceTimer *t = timers; t; t = t->next)
        if (t->on && t->at <= at) {
            t->on = 0;
            t->call(t->data);
        }
    for (SpiceTimer *t, **p = &timers; (t = *p);)
        if (t->dead) {
            *p = t->next;
            free(t);
        } else {
            p = &t->next;
        }
}
static int ms_to_next(void) {
    double next = 1e300, left;
    for (SpiceTimer *t = timers; t; t = t->next)
        if (t->on && t->at < next) next = t->at;
    left = next - now();
    return next == 1e300 ? -1 : left > 0 ? left * 1e3 + 0.999 : 0;
}
static void loop(void) {
    while (!quit) {
        struct epoll_event e[32];
        int n = epoll_wait(epoll_fd, e, 32, ms_to_next());
        for (int i = 0; i < n; i++) call_watch(e[i].data.ptr, e[i].events);
        call_timers();
        for (SpiceWatch *w; (w = dead_watches); free(w)) dead_watches = w->next_dead;
    }
}

/* ---- usbredir channels: each joined to a guest ----------------------------------------------------------------- */
struct channel {
    SpiceCharDeviceInstance device; /* first: the server gives it back */
    const char *target;
    int number, fd, open, has_read;
    SpiceWatch *watch;
    SpiceTimer *retry;
    uint64_t to_guest, to_client;
};
static struct channel channels[MAX_CHANNELS];
static int n_channels;

static void leave_guest(struct channel *c, const char *why) {
    if (c->fd < 0) return;
    LOG("usbredir%d: %s, %llu bytes to the guest, %llu to the client\n", c->number, why,
        (unsigned long long)c->to_guest, (unsigned long long)c->to_client);
    watch_remove(c->watch);
    close(c->fd);
    c->fd = -1;
}
static void wake_server(struct channel *c) { /* it reads until there is nothing more, if it can */
    c->has_read = 0;
    spice_server_char_device_wakeup(&c->device);
}
static void on_guest(int fd, int events, void *data) {
    struct channel *c = data;
    char byte;
    if (events & SPICE_WATCH_EVENT_WRITE) watch_update(c->watch, c->watch->mask & ~SPICE_WATCH_EVENT_WRITE);
    wake_server(c);
    if (c->fd < 0 || !(events & SPICE_WATCH_EVENT_READ)) return;
    ssize_t r = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (r == 0 || (r < 0 && errno != EAGAIN && errno != EINTR)) {
        leave_guest(c, "the guest left");
    } else if (r > 0 && !c->has_read) { /* it takes nothing now: the client is slow. Don't spin meanwhile */
        watch_update(c->watch, c->watch->mask & ~SPICE_WATCH_EVENT_READ);
        timer_start(c->retry, STALL_MS);
    }
}
static void on_retry(void *data) {
    struct channel *c = data;
    if (c->fd < 0) return;
    watch_update(c->watch, c->watch->mask | SPICE_WATCH_EVENT_READ);
    wake_server(c);
}
static void join_guest(struct channel *c) {
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_port = htons(atoi(c->target))};
    int on_unix = !strncmp(c->target, "unix:", 5), fd = socket(on_unix ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
    tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (on_unix) snprintf(local.sun_path, sizeof local.sun_path, "%s", c->target + 5);
    if (on_unix ? connect(fd, (void *)&local, sizeof local) : connect(fd, (void *)&tcp, sizeof tcp)) {
        perror(c->target);
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    c->fd = fd, c->to_guest = c->to_client = 0;
    c->watch = watch_add(fd, SPICE_WATCH_EVENT_READ, on_guest, c);
    LOG("usbredir%d: joined to %s\n", c->number, c->target);
    wake_server(c);
}
static int char_write(SpiceCharDeviceInstance *device, const uint8_t *data, int n) {
    struct channel *c = (struct channel *)device;
    if (c->fd < 0) return n; /* no guest: drop it, as a closed port does */
    ssize_t r = send(c->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (r < 0 && errno != EAGAIN) return n;
    if (r < 0) r = 0;
    c->to_guest += r;
    if (r < n) watch_update(c->watch, c->watch->mask | SPICE_WATCH_EVENT_WRITE);
    return r;
}
static int char_read(SpiceCharDeviceInstance *device, uint8_t *data, int n) {
    struct channel *c = (struct channel *)device;
    c->has_read = 1;
    if (c->fd < 0) return 0;
    watch_update(c->watch, c->watch->mask | SPICE_WATCH_EVENT_READ);
    ssize_t r = recv(c->fd, data, n, MSG_DONTWAIT);
    if (r <= 0) return 0;
    c->to_client += r;
    return r;
}
static void char_state(SpiceCharDeviceInstance *device, int open) {
    struct channel *c = (struct channel *)device;
    if (c->open == open) return;
    c->open = open;
    if (open) join_guest(c);
    else leave_guest(c, "the client left");
}
static SpiceCharDeviceInterface char_device = {
    .base = {SPICE_INTERFACE_CHAR_DEVICE, "a usbredir channel", SPICE_INTERFACE_CHAR_DEVICE_MAJOR,
             SPICE_INTERFACE_CHAR_DEVICE_MINOR},
    .state = char_state,
    .write = char_write,
    .read = char_read,
    .flags = SPICE_CHAR_DEVICE_NOTIFY_WRITABLE,
};
static void add_channel(const char *target) {
    struct channel *c = &channels[n_channels];
    if (n_channels == MAX_CHANNELS) exit(2);
    *c = (struct channel){.target = target, .number = n_channels++, .fd = -1};
    c->device.base.sif = &char_device.base;
    c->device.subtype = "usbredir";
}

/* ---- the server ------------------------------------------------------------------------------------------------ */
static void use_tls(int port, const char *folder) {
    static const char *const names[] = {"ca-cert.pem", "server-cert.pem", "server-key.pem"};
    char path[3][512];
    for (int i = 0; i < 3; i++) snprintf(path[i], sizeof path[i], "%s/%s", folder, names[i]);
    if (spice_server_set_tls(server, port, path[0], path[1], path[2], NULL, NULL, NULL)) {
        LOG("no TLS with what is in %s\n", folder);
        exit(1);
    }
}
static void on_signal(int number) {
    (void)number;
    quit = 1;
}

int main(int argc, char **argv) {
    int option, port = 5950, tls_port = 0;
    const char *folder = ".", *password = NULL;
    while ((option = getopt(argc, argv, "p:t:c:w:u:")) != -1) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 't': tls_port = atoi(optarg); break;
        case 'c': folder = optarg; break;
        case 'w': password = optarg; break;
        case 'u': add_channel(optarg); break;
        default: return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    server = spice_server_new();
    spice_server_set_addr(server, "127.0.0.1", SPICE_ADDR_FLAG_IPV4_ONLY);
    if (port) spice_server_set_port(server, port);
    if (tls_port) use_tls(tls_port, folder);
    if (!password) spice_server_set_noauth(server);
    if (spice_server_init(server, &core)) {
        LOG("the server does not start: is the port in use?\n");
        return 1;
    }
    if (password) spice_server_set_ticket(server, password, 0, 0, 0);
    for (struct channel *c = channels; c < channels + n_channels; c++) {
        c->retry = timer_add(on_retry, c);
        if (spice_server_add_interface(server, &c->device.base)) return 1;
    }
    spice_server_vm_start(server);
    LOG("ready: port %d, TLS %d, %d channels\n", port, tls_port, n_channels);
    loop();
    for (int i = 0; i < n_channels; i++) leave_guest(&channels[i], "the server ends");
    spice_server_destroy(server);
    return 0;
}
