// SPDX-License-Identifier: Apache-2.0 OR MIT
// Lets no number of a payment card and none of the operator's words be sent: the connection is reset, the datagram dropped.
//
// A number that may be one is held back from its seventh digit on, or from the end of its first group, until it is known what it
// is; so is what may be the beginning of a word. What passes before that is the same under every cut.

#include <stdbool.h>
#include <tidegate.h>

#define STEPS 800 /* bytes that one run looks at, some of them twice: a connection shows the rest again, a datagram does not */

#define LEAST 13 /* digits of a card's number */
#define MOST 19
#define SHOWN 6 /* digits at its beginning that are no secret */
#define FIRST 4 /* digits of the first group, where there are groups */
#define LATER 3 /* digits of another group, at least */

#define WORDS 8 /* entries of the map */
#define WORD 32 /* bytes of one word */

struct word {
    __u32 size; /* bytes of it, up to WORD; 0: the entry is free */
    char bytes[WORD];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, WORDS);
    __type(key, __u32);
    __type(value, struct word);
} words SEC(".maps");

/* A number, up to some digit of it. None is begun where it has no digits; it is no card's where it has more than MOST. */
struct number {
    __u32 digits;
    __u16 plain;   /* Luhn's sum, if this digit is the last */
    __u16 doubled; /* and if it is the one before */
} __attribute__((aligned(8)));

/* Of each connection: the number in the midst of which that ends what has passed. */
struct {
    __uint(type, BPF_MAP_TYPE_FLOW_STORAGE);
    __uint(max_entries, 65536);
    __type(key, __u64);
    __type(value, struct number);
} numbers SEC(".maps");

/* At 0: whether datagrams pass that are too long to be looked at to their end. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} long_pass SEC(".maps");

#define CARD WORDS /* what a refusal is about, when it is no word */

struct refusal {
    __u32 about; /* index of the word, or CARD */
    __u32 protocol;
    __u64 process_id;
    __u64 flow_id;
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
} refused SEC(".maps");

static __always_inline void tell(__u32 about, __u32 protocol, __u64 process_id, __u64 flow_id)
{
    struct refusal *event = bpf_ringbuf_reserve(&refused, sizeof(*event), 0);

    if (!event)
        return;
    event->about = about;
    event->protocol = protocol;
    event->process_id = process_id;
    event->flow_id = flow_id;
    bpf_ringbuf_submit(event, 0);
}

/* A word that was found. */
struct match {
    __u64 at;
    __u64 end; /* 0: none was */
    __u32 word;
};

/* Bytes of a word; 0 where there is none. */
static __always_inline __u32 size_of(const struct word *word)
{
    __u32 size = word ? word->size : 0;

    return size <= WORD ? size : 0;
}

/* The word that ends first, of those that end together the first in the map. */
static __noinline void find_word(void *ctx, __u64 from, struct match *match)
{
    *match = (struct match){};
    for (__u32 i = 0; i < WORDS; i++) {
        __u32 index = i;
        const struct word *word = bpf_map_lookup_elem(&words, &index);
        __u32 size = size_of(word);
        long at;

        if (!size)
            continue;
        at = tidegate_find(ctx, from, word->bytes, size);
        if (at >= 0 && (!match->end || (__u64)at + size < match->end)) {
            match->at = at;
            match->end = (__u64)at + size;
            match->word = i;
        }
    }
}

/* Bytes at the end of those shown with which a word begins, the most; 0 when none does. */
static __noinline __u32 begun(struct tidegate_stream *ctx)
{
    __u64 shown = ctx->data_end - ctx->data;

    for (__u32 count = WORD - 1; count; count--) {
        for (__u32 i = 0; i < WORDS; i++) {
            __u32 index = i;
            const struct word *word = bpf_map_lookup_elem(&words, &index);

            if (count < size_of(word) && count <= shown && tidegate_find(ctx, shown - count, word->bytes, count) >= 0)
                return count;
        }
    }
    return 0;
}

static __always_inline bool is_digit(__u8 c)
{
    return c >= '0' && c <= '9';
}

/* A plus is a space in forms. */
static __always_inline bool is_separator(__u8 c)
{
    return c == ' ' || c == '-' || c == '+';
}

static __always_inline void add(struct number *number, __u8 c)
{
    __u32 digit = c - '0', twice = digit + digit, plain = number->doubled + digit;

    /* Issuers of cards begin with 2 to 6. */
    if (!number->digits && (c < '2' || c > '6'))
        number->digits = MOST;
    number->digits++;
    number->doubled = number->plain + (twice > 9 ? twice - 9 : twice);
    number->plain = plain;
}

/* Where a number is looked for. In a map and not on the stack: what differs between paths is not followed there. */
struct scan {
    struct number number; /* that before `at` */
    struct number kept;   /* that before `safe` */
    __u32 at;
    __u32 safe;   /* so many bytes are no secret */
    __u32 group;  /* digits of its last group */
    __u32 grouped; /* which is not its first */
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct scan);
} scans SEC(".maps");

static __always_inline bool is_card(const struct scan *scan)
{
    const struct number *number = &scan->number;

    return number->digits >= LEAST && number->digits <= MOST && number->plain % 10 == 0 &&
           (!scan->grouped || scan->group >= LATER);
}

/*
 * Goes on to the end of a card's number, as far as `most` bytes without one, or as far as one run may. Whether there is a number.
 * `last`: nothing comes behind.
 */
static __always_inline int find(struct scan *scan, const __u8 *data, const __u8 *end, __u64 most, bool last)
{
    for (__u32 step = 0; step < STEPS && scan->safe != most; step++) {
        __u32 ends = false;
        __u8 c = '\n';

        if (data + scan->at < end) {
            c = data[scan->at];
        } else if (!last) {
            return false;
        } else if (!scan->grouped && !is_card(scan)) {
            scan->safe = scan->at;
            return false;
        }
        if (is_digit(c)) {
            add(&scan->number, c);
            scan->group++;
            ends = scan->grouped && scan->number.digits > MOST;
        } else if (is_card(scan)) {
            return true;
        } else if (is_separator(c) && (scan->grouped ? scan->group >= LATER : scan->number.digits == FIRST)) {
            scan->grouped = true;
            scan->group = 0;
        } else {
            ends = true;
        }
        if (ends) {
            /* What is behind its first group may begin another number. */
            if (scan->grouped)
                scan->at = scan->safe;
            scan->grouped = false;
            scan->number = (struct number){};
        }
        scan->at++;
        if (!scan->grouped && (scan->number.digits <= SHOWN || scan->number.digits > MOST)) {
            scan->kept = scan->number;
            scan->safe = scan->at;
        }
    }
    return false;
}

static __always_inline int judge(struct tidegate_stream *ctx, bool last)
{
    __u64 shown = ctx->data_end - ctx->data, most = shown;
    struct number *number;
    struct match match;
    struct scan *scan;
    __u32 zero = 0, card;

    if (ctx->direction != TIDEGATE_OUTBOUND || !shown)
        return TIDEGATE_PERMIT;
    number = tidegate_flow_storage_get(ctx, &numbers, 1);
    scan = bpf_map_lookup_elem(&scans, &zero);
    if (!number || !scan)
        return TIDEGATE_DROP_CONNECTION;
    *scan = (struct scan){};
    /* What lies on both sides of bytes that were missed is not together. */
    if (!ctx->missed_bytes)
        scan->number = scan->kept = *number;

    find_word(ctx, 0, &match);
    if (match.end)
        most = match.at;
    else if (!last)
        most -= begun(ctx);
    card = find(scan, ctx->data, ctx->data_end, most, last);
    if (scan->safe > most) {
        /* In the midst of a number that is no card's. */
        scan->safe = most;
        scan->kept.digits = MOST + 1;
    }
    *number = scan->kept;
    if (scan->safe) {
        ctx->bytes_enforced = scan->safe;
        return TIDEGATE_PERMIT;
    }
    if (!card && (!match.end || most))
        return last ? TIDEGATE_PERMIT : TIDEGATE_NEED_MORE_DATA;
    tell(card ? CARD : match.word, IPPROTO_TCP, ctx->process_id, ctx->flow_id);
    return TIDEGATE_DROP_CONNECTION;
}

SEC("tidegate/stream")
int dlp_block_stream(struct tidegate_stream *ctx)
{
    if (ctx->flags & TIDEGATE_STREAM_NO_MORE_DATA)
        return judge(ctx, true);
    return judge(ctx, false);
}

SEC("tidegate/send")
int dlp_block_datagram(struct tidegate_send *ctx)
{
    __u64 shown = ctx->data_end - ctx->data;
    struct match match;
    struct scan *scan;
    __u32 zero = 0, card, *pass;

    /* A connection is looked at as one. */
    if (ctx->protocol == IPPROTO_TCP)
        return TIDEGATE_CONTINUE;
    scan = bpf_map_lookup_elem(&scans, &zero);
    pass = bpf_map_lookup_elem(&long_pass, &zero);
    if (!scan || !pass)
        return TIDEGATE_BLOCK;
    *scan = (struct scan){ .at = ctx->header_size, .safe = ctx->header_size };
    find_word(ctx, ctx->header_size, &match);
    card = find(scan, ctx->data, ctx->data_end, shown, true);
    if (card || match.end) {
        tell(card ? CARD : match.word, ctx->protocol, ctx->process_id, ctx->flow_id);
        return TIDEGATE_BLOCK;
    }
    return scan->safe < shown && !*pass ? TIDEGATE_BLOCK : TIDEGATE_CONTINUE;
}
