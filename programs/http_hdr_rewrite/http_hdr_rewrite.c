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
#define HEAD_LIMIT 32768  /* bytes of one request's header, and of one line of the chunked coding */

#define ENDLESS (~0ull)   /* the length of a body whose end can't be told */

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

/* Bytes of a request line, compared as one word: not every clang compares so few bytes without a C library. */
union part {
    char text[sizeof(__u64)];
    __u64 word;
};

static const union part CONNECT = { .text = "CONNECT " };
static const union part VERSION = { .text = " HTTP/1." };

/* What a request's header says about what follows it. */
struct request {
    __u32 text_size;     /* of the operator's line */
    __u32 length_at;     /* where the length of the body is; 0: there is none */
    _Bool chunked;
    _Bool leaves_http;   /* Upgrade */
    _Bool rewritten;
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
    __u64 words[NAME / sizeof(__u64)];
};

#define WORDS (sizeof(union name) / sizeof(__u64))
#define BYTES(c) (0x0101010101010101ull * (c))
#define HIGH BYTES(0x80)

/*
 * Eight characters at a time and without a branch: the first character is the lowest byte, and a byte's high bit tells
 * whether something holds for it.
 */
static __always_inline void to_name(union name *name)
{
    __u64 behind = 0; /* all ones once the colon was there */

    for (int i = 0; i < WORDS; i++) {
        __u64 word = name->words[i], low = word & ~HIGH, not_colon = low ^ BYTES(':');
        __u64 is_upper = ((low + HIGH - BYTES('A')) ^ (low + ~HIGH - BYTES('Z'))) & ~word & HIGH;
        __u64 is_colon = ~(not_colon + ~HIGH) & ~word & HIGH;

        word |= is_upper >> 2;
        name->words[i] = word & (is_colon ^ (is_colon - 1)) & ~behind;
        behind |= (__u64)((__s64)(is_colon | -is_colon) >> 63);
    }
}

static __always_inline int is_same(const union name *a, const union name *b)
{
    __u64 difference = 0;

    for (int i = 0; i < WORDS; i++)
        difference |= a->words[i] ^ b->words[i];
    return difference == 0;
}

#define CONTENT_LENGTH "content-length"

#define IS_NAMED(which, known) is_same(which, &(const union name){ .text = known ":" })

static __always_inline __u32 at_most(__u32 size, __u32 most)
{
    return size < most ? size : most;
}

/*
 * The number at `at`, behind blanks, that something else ends before `end`. ENDLESS when there is none, and when it is longer
 * than what is looked at.
 */
static __always_inline __u64 number(struct tidegate_stream *ctx, __u32 at, __u32 end, __u32 base)
{
    char text[17] = {}; /* the digits of 64 bits, and what ends them */
    __u64 value = 0;
    _Bool begun = 0;

    if (tidegate_load_bytes(ctx, at, text, at_most(end - at, sizeof(text))))
        return ENDLESS;
    for (int i = 0; i < sizeof(text); i++) {
        char c = text[i];
        __u32 digit;

        if (c >= '0' && c <= '9')
            digit = c - '0';
        else if (base == 16 && c >= 'a' && c <= 'f')
            digit = c - 'a' + 10;
        else if (base == 16 && c >= 'A' && c <= 'F')
            digit = c - 'A' + 10;
        else if (!begun && (c == ' ' || c == '\t'))
            continue;
        else
            return begun ? value : ENDLESS;
        value = value * base + digit;
        begun = 1;
    }
    return ENDLESS;
}

static __always_inline int need_more(struct tidegate_stream *ctx)
{
    __u64 shown = (char *)ctx->data_end - (char *)ctx->data;

    if (shown >= HEAD_LIMIT || ctx->flags & TIDEGATE_STREAM_NO_MORE_DATA)
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

    if (tidegate_load_bytes(ctx, at, &line, at_most(end - at, sizeof(line))))
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
    } else if (IS_NAMED(&name, CONTENT_LENGTH)) {
        request->length_at = at + sizeof(CONTENT_LENGTH);
    } else if (IS_NAMED(&name, "transfer-encoding")) {
        request->chunked = 1;
    } else if (IS_NAMED(&name, "upgrade")) {
        request->leaves_http = 1;
    }
}

static __always_inline int head(struct tidegate_stream *ctx)
{
    long first, blank, at;
    struct request *request;
    struct place next = {};
    __u32 zero = 0, size;
    union name wanted;
    union part start, version;
    char *text;

    first = tidegate_find(ctx, 0, CRLF, sizeof(CRLF));
    if (first < 0)
        return need_more(ctx);
    /* Empty lines before a request belong to none (RFC 9112 section 2.2). */
    if (first == 0)
        return take(ctx, sizeof(CRLF), &next);
    /* The version and one digit end the line. */
    if (tidegate_load_bytes(ctx, first - 1 - sizeof(version), &version, sizeof(version)) ||
        version.word != VERSION.word || tidegate_load_bytes(ctx, 0, &start, sizeof(start)))
        return TIDEGATE_ALLOW_CONNECTION;
    blank = tidegate_find(ctx, first, BLANK_LINE, sizeof(BLANK_LINE));
    if (blank < first)
        return need_more(ctx);
    if (blank + sizeof(BLANK_LINE) > HEAD_LIMIT)
        return TIDEGATE_ALLOW_CONNECTION;

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
    for (int i = 0; i < HEADERS; i++) {
        long end = tidegate_find(ctx, at, CRLF, sizeof(CRLF));

        if (end <= at)
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

    if (request->leaves_http || start.word == CONNECT.word) {
        next.unit = PASS;
    } else if (request->chunked) {
        next.unit = CHUNK;
        next.chunked = request->chunked;
    } else if (request->length_at) {
        next.left = number(ctx, request->length_at, blank + sizeof(CRLF), 10);
        next.unit = next.left ? BODY : HEAD;
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
    next.unit = place->chunked ? CHUNK_END : HEAD;
    return take(ctx, place->left, &next);
}

/* A line of the chunked coding: a size, the end of a chunk, or a trailer. */
static __always_inline int chunk_line(struct tidegate_stream *ctx, struct place *place)
{
    long end = tidegate_find(ctx, 0, CRLF, sizeof(CRLF));
    struct place next = *place;

    if (end < 0)
        return need_more(ctx);
    if (end + sizeof(CRLF) > HEAD_LIMIT)
        return TIDEGATE_ALLOW_CONNECTION;
    if (place->unit == CHUNK_END) {
        next.unit = CHUNK;
    } else if (place->unit == TRAILER) {
        if (end == 0)
            next = (struct place){};
    } else {
        next.left = number(ctx, 0, end + sizeof(CRLF), 16);
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
