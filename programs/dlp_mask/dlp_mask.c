// SPDX-License-Identifier: Apache-2.0 OR MIT
// Masks the numbers of payment cards in what connections send: the first six and the last four digits stay, those between become
// X. No byte is added or taken away, so that lengths that were told before (Content-Length) stay right.
//
// A number that may be one is held back from its seventh digit on, or from the end of its first group, until it is known what it
// is. What passes before that is the same under every cut.

#include <stdbool.h>
#include <tidegate.h>

#define STEPS 512 /* bytes that one run looks at, some of them twice: the rest is shown again */

#define LEAST 13 /* digits of a card's number */
#define MOST 19
#define SHOWN 6 /* digits at its beginning that are no secret */
#define LAST 4  /* and at its end */
#define FIRST 4 /* digits of the first group, where there are groups */
#define LATER 3 /* digits of another group, at least */

/* A number, up to some digit of it. None is begun where it has no digits; it is no card's where it has more than MOST. */
struct number {
    __u32 digits;
    __u32 plain;   /* Luhn's sum, if this digit is the last */
    __u32 doubled; /* and if it is the one before */
};

/* Of each connection: the number in the midst of which that ends what has passed. */
struct {
    __uint(type, BPF_MAP_TYPE_FLOW_STORAGE);
    __uint(max_entries, 65536);
    __type(key, __u64);
    __type(value, struct number);
} numbers SEC(".maps");

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

/* Goes on to the end of a card's number, or as far as one run may. Whether there is one. `last`: nothing comes behind. */
static __always_inline int find(struct scan *scan, const __u8 *data, const __u8 *end, bool last)
{
    for (__u32 step = 0; step < STEPS; step++) {
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

static __always_inline void mask(struct tidegate_stream *ctx, const struct scan *scan)
{
    char text[32] = {};
    /* At most thirteen digits, or fifteen and five separators. */
    __u32 size = (scan->at - scan->safe) % sizeof(text), digit = scan->kept.digits;

    if (!size || tidegate_load_bytes(ctx, scan->safe, text, size))
        return;
    for (__u32 i = 0; i < sizeof(text); i++) {
        if (!is_digit(text[i]))
            continue;
        if (digit >= SHOWN && digit + LAST < scan->number.digits)
            text[i] = 'X';
        digit++;
    }
    tidegate_replace(ctx, scan->safe, size, text, size);
}

static __always_inline int judge(struct tidegate_stream *ctx, bool last)
{
    struct number *number;
    struct scan *scan;
    __u32 zero = 0;

    if (ctx->direction != TIDEGATE_OUTBOUND || ctx->data == ctx->data_end)
        return TIDEGATE_PERMIT;
    number = tidegate_flow_storage_get(ctx, &numbers, 1);
    scan = bpf_map_lookup_elem(&scans, &zero);
    if (!number || !scan)
        return TIDEGATE_DROP_CONNECTION;
    *scan = (struct scan){};
    /* What lies on both sides of bytes that were missed is not together. */
    if (!ctx->missed_bytes)
        scan->number = scan->kept = *number;
    if (find(scan, ctx->data, ctx->data_end, last)) {
        mask(ctx, scan);
        scan->kept = (struct number){};
        scan->safe = scan->at;
    }
    *number = scan->kept;
    if (!scan->safe && !last)
        return TIDEGATE_NEED_MORE_DATA;
    ctx->bytes_enforced = scan->safe;
    return TIDEGATE_PERMIT;
}

SEC("tidegate/stream")
int dlp_mask(struct tidegate_stream *ctx)
{
    /* Two programs in one: each is proven with what it knows of the flag. */
    return ctx->flags & TIDEGATE_STREAM_NO_MORE_DATA ? judge(ctx, true) : judge(ctx, false);
}
