// SPDX-License-Identifier: Apache-2.0 OR MIT
// Gives every HTTP/1 request that leaves this machine one header of the operator's: replaces the header where the
// request has it, adds it where it has not.
//
// The header is entry 0 of the map `header`, as text: "X-Via: tidegate". Requests are followed through a connection by
// their length (RFC 9112 section 6): none, Content-Length or chunked, so that text in a body is never taken for a header
// and pipelined requests are all rewritten. What is not HTTP/1, and what follows a CONNECT or an Upgrade, passes as it is.

#include <tidegate.h>

#define LINE 128          /* bytes of the header line in the map, zero-padded */
#define NAME 32           /* bytes of a header name that are compared */
#define HEADERS 64        /* lines of one request's header; a request with more passes as it is */
#define HEAD_LIMIT 32768  /* bytes of one request's header */

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, char[LINE]);
} header SEC(".maps");

/* Where a connection is between two runs. No entry: at the start of a request. */
enum unit {
    HEAD,       /* a request line and its headers */
    BODY,       /* `left` bytes of body */
    CHUNK,      /* the line with the size of a chunk */
    CHUNK_END,  /* the line end behind a chunk's data */
    TRAILER,    /* lines behind the last chunk, up to an empty one */
    PASS,       /* anything: another protocol */
};

struct place {
    __u64 left;
    __u32 unit;
    __u32 chunked;
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, __u64);
    __type(value, struct place);
} places SEC(".maps");

static const char CRLF[2] = "\r\n";
static const char BLANK_LINE[4] = "\r\n\r\n";
static const char VERSION[8] = " HTTP/1.";

/* What a request's header says about what follows it. */
struct request {
    __u64 length;
    __u32 chunked;
    __u32 leaves_http; /* CONNECT or Upgrade */
    __u32 rewritten;
    __u32 text_size; /* of the operator's line */
};

/*
 * The request at hand. In a map and not on the stack: what differs between the paths through a line then differs in memory that
 * is not followed, and the proof of 100 lines stays 100 times that of one.
 */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct request);
} requests SEC(".maps");

/* A header's name in lower case (names know no case) with its colon, zero-padded; compared in words. */
union name {
    char text[NAME];
    __u64 words[NAME / 8];
};

static __always_inline char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

#define BYTES(c) (0x0101010101010101ull * (c))

/*
 * Eight characters at a time and without a branch: the first character is the lowest byte, and a byte's high bit tells
 * whether something holds for it.
 */
static __always_inline void to_name(union name *name)
{
    __u64 behind = 0; /* all ones once the colon was there */

    for (int i = 0; i < NAME / 8; i++) {
        __u64 word = name->words[i], low = word & BYTES(0x7f);
        __u64 is_upper = ((low + BYTES(0x80 - 'A')) ^ (low + BYTES(0x7f - 'Z'))) & ~word & BYTES(0x80);
        __u64 not_colon = low ^ BYTES(':');
        __u64 is_colon = ~(not_colon + BYTES(0x7f)) & ~word & BYTES(0x80);

        word |= is_upper >> 2;
        name->words[i] = word & (is_colon ^ (is_colon - 1)) & ~behind;
        behind |= (__u64)((__s64)(is_colon | -is_colon) >> 63);
    }
}

static __always_inline int is_same(const union name *a, const union name *b)
{
    __u64 difference = 0;

    for (int i = 0; i < NAME / 8; i++)
        difference |= a->words[i] ^ b->words[i];
    return difference == 0;
}

/* A request's first bytes, compared as one word: not every clang compares so few bytes without a C library. */
union start {
    char text[8];
    __u64 word;
};

static const union start CONNECT = { .text = "CONNECT " };

#define IS_NAMED(which, known) is_same(which, &(const union name){ .text = known ":" })

static __always_inline __u64 number(const char *text, int limit)
{
    __u64 value = 0;

    for (int i = 0; i < limit; i++) {
        if (text[i] == ' ' || text[i] == '\t')
            continue;
        if (text[i] < '0' || text[i] > '9')
            break;
        value = value * 10 + (text[i] - '0');
    }
    return value;
}

static __always_inline __u64 hex_number(const char *text, int limit)
{
    __u64 value = 0;

    for (int i = 0; i < limit; i++) {
        char c = lower(text[i]);

        if (c >= '0' && c <= '9')
            value = value << 4 | (c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (c - 'a' + 10);
        else
            break;
    }
    return value;
}

static __always_inline int need_more(struct tidegate_stream *ctx)
{
    __u64 shown = (char *)ctx->data_end - (char *)ctx->data;

    if (shown > HEAD_LIMIT || ctx->flags & TIDEGATE_STREAM_NO_MORE_DATA)
        return TIDEGATE_ALLOW_CONNECTION;
    return TIDEGATE_NEED_MORE_DATA;
}

/* Takes `size` of the bytes shown as one unit; the next run starts behind them, in `next`. */
static __always_inline int take(struct tidegate_stream *ctx, __u32 size, struct place *next)
{
    __u64 flow = ctx->flow_id;

    bpf_map_update_elem(&places, &flow, next, BPF_ANY);
    ctx->bytes_enforced = size;
    return TIDEGATE_PERMIT;
}

/* One line of the header, from `at` to `end`. */
static __always_inline void header_line(struct tidegate_stream *ctx, __u32 at, __u32 end, const union name *wanted,
                                        const char *text, __u32 text_size, struct request *request)
{
    union name line = {}, name;
    __u32 size = end - at;

    if (size > sizeof(line))
        size = sizeof(line);
    if (tidegate_load_bytes(ctx, at, &line, size))
        return;
    name = line;
    to_name(&name);
    if (is_same(&name, wanted)) {
        /* The first of that name becomes the operator's, the others go with their line ends. */
        if (request->rewritten)
            tidegate_remove(ctx, at, end + sizeof(CRLF) - at);
        else
            tidegate_replace(ctx, at, end - at, text, text_size);
        request->rewritten = 1;
    } else if (IS_NAMED(&name, "content-length")) {
        request->length = number(line.text + 15, NAME - 15);
    } else if (IS_NAMED(&name, "transfer-encoding")) {
        request->chunked = 1;
    } else if (IS_NAMED(&name, "upgrade")) {
        request->leaves_http = 1;
    }
}

static __always_inline int head(struct tidegate_stream *ctx)
{
    long first, version, blank, at;
    struct request *request;
    struct place next = {};
    __u32 zero = 0, size;
    union name wanted;
    union start start = {};
    char *text;

    first = tidegate_find(ctx, 0, CRLF, sizeof(CRLF));
    if (first < 0)
        return need_more(ctx);
    version = tidegate_find(ctx, 0, VERSION, sizeof(VERSION));
    if (version < 0 || version > first)
        return TIDEGATE_ALLOW_CONNECTION;
    blank = tidegate_find(ctx, first, BLANK_LINE, sizeof(BLANK_LINE));
    if (blank < 0)
        return need_more(ctx);

    text = bpf_map_lookup_elem(&header, &zero);
    request = bpf_map_lookup_elem(&requests, &zero);
    if (!text || !request)
        return TIDEGATE_ALLOW_CONNECTION;
    *request = (struct request){};
    for (int i = 0; i < LINE && text[i]; i++)
        request->text_size = i + 1;
    size = request->text_size;
    if (size == 0 || size > LINE)
        return TIDEGATE_ALLOW_CONNECTION;
    __builtin_memcpy(&wanted, text, sizeof(wanted));
    to_name(&wanted);

    at = first + sizeof(CRLF);
    for (int i = 0; i < HEADERS && at < blank + (long)sizeof(CRLF); i++) {
        long end = tidegate_find(ctx, at, CRLF, sizeof(CRLF));

        if (end < at)
            break;
        header_line(ctx, at, end, &wanted, text, size, request);
        at = end + sizeof(CRLF);
    }
    if (at < blank + (long)sizeof(CRLF))
        return TIDEGATE_ALLOW_CONNECTION;
    if (!request->rewritten) {
        tidegate_insert(ctx, blank, CRLF, sizeof(CRLF));
        tidegate_insert(ctx, blank, text, size);
    }

    tidegate_load_bytes(ctx, 0, &start, sizeof(start));
    if (request->leaves_http || start.word == CONNECT.word) {
        next.unit = PASS;
    } else if (request->chunked) {
        next.unit = CHUNK;
        next.chunked = 1;
    } else if (request->length) {
        next.unit = BODY;
        next.left = request->length;
    }
    return take(ctx, blank + sizeof(BLANK_LINE), &next);
}

static __always_inline int body(struct tidegate_stream *ctx, struct place *place)
{
    __u64 shown = (char *)ctx->data_end - (char *)ctx->data;
    struct place next = *place;

    if (shown < place->left) {
        next.left -= shown;
        return take(ctx, 0, &next);
    }
    next.left = 0;
    next.unit = place->chunked ? CHUNK_END : HEAD;
    return take(ctx, place->left, &next);
}

/* A line of the chunked coding: a size, the end of a chunk, or a trailer. */
static __always_inline int chunk_line(struct tidegate_stream *ctx, struct place *place)
{
    long end = tidegate_find(ctx, 0, CRLF, sizeof(CRLF));
    struct place next = *place;
    char line[17] = {};
    __u32 size;

    if (end < 0)
        return need_more(ctx);
    if (place->unit == CHUNK_END) {
        next.unit = CHUNK;
    } else if (place->unit == TRAILER) {
        if (end == 0)
            next = (struct place){};
    } else {
        size = end < 16 ? end : 16;
        if (size == 0 || tidegate_load_bytes(ctx, 0, line, size))
            return TIDEGATE_ALLOW_CONNECTION;
        next.left = hex_number(line, 16);
        next.unit = next.left ? BODY : TRAILER;
    }
    return take(ctx, end + sizeof(CRLF), &next);
}

SEC("tidegate/stream")
int http_hdr_rewrite(struct tidegate_stream *ctx)
{
    __u64 flow = ctx->flow_id;
    struct place *place;

    if (ctx->opener != TIDEGATE_OUTBOUND || ctx->missed_bytes)
        return TIDEGATE_ALLOW_CONNECTION;
    if (ctx->direction != TIDEGATE_OUTBOUND || ctx->data == ctx->data_end)
        return TIDEGATE_PERMIT;

    place = bpf_map_lookup_elem(&places, &flow);
    if (!place || place->unit == HEAD)
        return head(ctx);
    if (place->unit == PASS)
        return TIDEGATE_ALLOW_CONNECTION;
    if (place->unit == BODY)
        return body(ctx, place);
    return chunk_line(ctx, place);
}
