/* Open-loop load: requests are due at fixed times, whether or not earlier ones have a reply, and latency counts
 * from the time a request was due. A closed loop (wrk) slows down together with the server and hides its pauses.
 *
 * openloop PORT CONNECTIONS RATE SECONDS FILE [wait]   to 127.0.0.1; FILE: each request after its length (32 bits)
 * Spins on one CPU, or with `wait` sleeps until something is due, for a server that has every CPU; prints one line of
 * JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 16384, EVENTS = 256 };

struct connection {
    int fd;
    uint64_t due; /* when the outstanding request was due */
    size_t have, need; /* bytes of the reply read so far; 0 until its length is known */
    char buffer[BUFFER + 1];
};

struct request {
    const char *data;
    uint32_t length;
};

static void fail(const char *what) {
    fprintf(stderr, "openloop: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static struct request *read_requests(const char *path, size_t *count) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail(path);
    long size = ftell(file);
    rewind(file);
    char *data = malloc((size_t)size + 1);
    struct request *requests = malloc(((size_t)size / 4 + 1) * sizeof *requests);
    if (!data || !requests || fread(data, 1, (size_t)size, file) != (size_t)size) fail(path);
    fclose(file);
    *count = 0;
    for (long at = 0; at + 4 <= size;) {
        struct request *r = &requests[*count];
        memcpy(&r->length, data + at, 4);
        at += 4;
        if (r->length == 0 || r->length > size - at) fail("request file is damaged");
        r->data = data + at;
        at += r->length;
        ++*count;
    }
    if (!*count) fail("no requests");
    return requests;
}

/* 1 when the whole reply is there, 0 when more must come; ends the program on anything but a 200. */
static int take(struct connection *c) {
    for (;;) {
        if (c->have >= BUFFER) fail("reply too long");
        ssize_t n = read(c->fd, c->buffer + c->have, BUFFER - c->have);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
        if (n <= 0) fail("connection closed");
        c->have += (size_t)n;
        c->buffer[c->have] = 0;
        if (!c->need) {
            char *end = strstr(c->buffer, "\r\n\r\n");
            if (!end) continue;
            if (strncmp(c->buffer, "HTTP/1.1 200", 12)) fail("reply is not 200");
            char *length = strcasestr(c->buffer, "\r\nContent-Length:");
            if (!length || length > end) fail("reply without Content-Length");
            c->need = (size_t)(end + 4 - c->buffer) + strtoul(length + 17, NULL, 10);
        }
        if (c->have >= c->need) return 1;
    }
}

int main(int argc, char **argv) {
    int waits = argc == 7 && !strcmp(argv[6], "wait");
    if (argc != 6 && !waits) {
        fprintf(stderr, "usage: openloop PORT CONNECTIONS RATE SECONDS FILE [wait]\n");
        return 2;
    }
    int port = atoi(argv[1]), connections = atoi(argv[2]);
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    if (port <= 0 || connections <= 0 || rate <= 0 || seconds <= 0) fail("arguments must be positive");
    size_t count;
    struct request *requests = read_requests(argv[5], &count);
    size_t total = (size_t)(rate * seconds), sent = 0, answered = 0;
    struct connection *all = calloc((size_t)connections, sizeof *all);
    struct connection **idle = malloc((size_t)connections * sizeof *idle);
    uint32_t *latencies = malloc((total + 1) * sizeof *latencies);
    int poll = epoll_create1(0), idle_count = 0;
    if (!all || !idle || !latencies || poll < 0) fail("set-up");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < connections; i++) {
        int one = 1;
        struct connection *c = &all[i];
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
        idle[idle_count++] = c;
    }
    uint64_t start = now_ns(), late = 0, deadline = start + (uint64_t)((seconds + 10) * 1e9);
    struct epoll_event events[EVENTS];
    while (answered < total) {
        uint64_t now = now_ns();
        if (now > deadline) fail("server cannot keep up with this rate");
        while (sent < total && idle_count) {
            uint64_t due = start + (uint64_t)((double)sent * 1e9 / rate);
            if (due > now) break;
            struct connection *c = idle[--idle_count];
            struct request *r = &requests[sent % count];
            c->due = due;
            c->have = c->need = 0;
            if (write(c->fd, r->data, r->length) != (ssize_t)r->length) fail("write");
            sent++;
            late += now - due > 1000000;
        }
        uint64_t rest = 0;
        if (waits) {
            rest = 10000000;
            if (sent < total && idle_count) {
                uint64_t due = start + (uint64_t)((double)sent * 1e9 / rate), then = now_ns();
                rest = due > then ? due - then : 0;
            }
        }
        struct timespec timeout = {.tv_sec = (time_t)(rest / 1000000000u), .tv_nsec = (long)(rest % 1000000000u)};
        int n = epoll_pwait2(poll, events, EVENTS, &timeout, NULL);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!take(c)) continue;
            uint64_t taken = now_ns() - c->due;
            latencies[answered++] = taken > UINT32_MAX ? UINT32_MAX : (uint32_t)taken;
            idle[idle_count++] = c;
        }
    }
    double elapsed = (double)(now_ns() - start) / 1e9;
    qsort(latencies, total, sizeof *latencies, by_value);
    printf("{\"requests\":%zu,\"rate\":%.0f,\"sent_late\":%llu,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,"
           "\"p999_us\":%.1f,\"max_us\":%.1f}\n",
           total, (double)total / elapsed, (unsigned long long)late, latencies[total / 2] / 1e3,
           latencies[total * 9 / 10] / 1e3, latencies[total * 99 / 100] / 1e3, latencies[total * 999 / 1000] / 1e3,
           latencies[total - 1] / 1e3);
    return 0;
}
