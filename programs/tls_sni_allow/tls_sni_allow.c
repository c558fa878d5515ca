// SPDX-License-Identifier: Apache-2.0 OR MIT
// Lets a TLS connection through only when the name that its client asks for (SNI, RFC 6066 section 3) is on a list.
//
// An entry "example.com" allows that name and every name below it. A ClientHello without a name, one that is not all of
// its first record, and one whose lengths don't fit are refused: what can't be judged does not pass. Connections that
// don't start like TLS are not this policy's business.

#include <stdbool.h>

#include <tidegate.h>

#define NAME 64 /* bytes of a name in the list, zero-padded */
#define KEPT (NAME - 1) /* bytes of a name that are compared: the last ones of a longer name */
#define LONGEST 255
#define EXTENSIONS 64

#define RECORD_HANDSHAKE 22
#define CLIENT_HELLO 1
#define EXTENSION_SERVER_NAME 0
#define HOST_NAME 0

/* What lies in a ClientHello (RFC 8446 sections 4 and 5.1), in this order. */
struct record {
    __u8 type;
    __u16 version, length;
} __attribute__((packed));

struct handshake {
    __u8 type, length_high;
    __u16 length;
} __attribute__((packed));

struct hello {
    __u16 version;
    __u8 random[32];
    __u8 session_length;
} __attribute__((packed));

struct list { /* cipher suites, later extensions */
    __u16 length;
} __attribute__((packed));

struct extension {
    __u16 type, length;
} __attribute__((packed));

struct server_name { /* a list with one entry, then its name */
    __u16 list_length;
    __u8 type;
    __u16 length;
} __attribute__((packed));

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, char[NAME]);
    __type(value, __u32);
} allowed SEC(".maps");

struct refusal {
    char name[NAME]; /* empty: there was none */
    __u64 flow_id;
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
} refused SEC(".maps");

/* Room for a name and a key's worth of zeros behind it, so that every suffix of it is a zero-padded key as it lies. */
struct name {
    char bytes[2 * NAME];
};

static __always_inline int drop(struct tidegate_stream *ctx, const struct name *name)
{
    struct refusal *event = bpf_ringbuf_reserve(&refused, sizeof(*event), 0);

    if (event) {
        event->flow_id = ctx->flow_id;
        __builtin_memcpy(event->name, name->bytes, sizeof(event->name));
        bpf_ringbuf_submit(event, 0);
    }
    return TIDEGATE_DROP_CONNECTION;
}

/* Names in DNS know no case (RFC 4343); the list is in lower case. */
static __always_inline void to_lower(struct name *name)
{
    for (int i = 0; i < NAME; i++) {
        char c = name->bytes[i];

        if (c >= 'A' && c <= 'Z')
            name->bytes[i] = c + ('a' - 'A');
    }
}

/* Whether the name is on the list, if it is whole, or what stands behind one of its dots. */
static __always_inline bool is_allowed(const struct name *name, bool whole)
{
    if (whole && bpf_map_lookup_elem(&allowed, name->bytes))
        return true;
    for (int i = 1; i < NAME; i++) {
        if (name->bytes[i - 1] == '.' && bpf_map_lookup_elem(&allowed, name->bytes + i))
            return true;
    }
    return false;
}

/* What lies behind a thing, and whether all before that is shown. */
#define BEHIND(thing) ((const void *)((thing) + 1))

static __always_inline bool is_shown(const void *behind, const void *end)
{
    return behind <= end;
}

SEC("tidegate/stream")
int tls_sni_allow(struct tidegate_stream *ctx)
{
    const void *data = ctx->data, *data_end = ctx->data_end;
    const struct record *record = data;
    const struct handshake *handshake;
    const struct hello *hello;
    const struct list *suites, *extensions;
    const __u8 *methods;
    const struct extension *extension;
    struct name name = {};
    __u64 end;

    /* The client speaks first, and only what this machine asks for is judged. */
    if (ctx->opener != TIDEGATE_OPENER_LOCAL)
        return TIDEGATE_ALLOW_CONNECTION;
    if (ctx->direction != TIDEGATE_OUTBOUND || data == data_end)
        return TIDEGATE_PERMIT;
    if (ctx->missed_bytes)
        return drop(ctx, &name);
    if (record->type != RECORD_HANDSHAKE)
        return TIDEGATE_ALLOW_CONNECTION;

    if (!is_shown(BEHIND(record), data_end))
        goto more;
    handshake = BEHIND(record);
    if (!is_shown((const void *)handshake + bpf_ntohs(record->length), data_end))
        goto more;
    end = (const void *)handshake + bpf_ntohs(record->length) - data;

    /* The ClientHello is all of the record, and its extensions all that is left of it. */
    hello = BEHIND(handshake);
    if (!is_shown(BEHIND(hello), data_end))
        goto refuse;
    if (handshake->type != CLIENT_HELLO || handshake->length_high != 0)
        goto refuse;
    if ((const void *)hello + bpf_ntohs(handshake->length) - data != end)
        goto refuse;
    suites = BEHIND(hello) + hello->session_length;
    if (!is_shown(BEHIND(suites), data_end))
        goto refuse;
    methods = BEHIND(suites) + bpf_ntohs(suites->length);
    if (!is_shown(BEHIND(methods), data_end))
        goto refuse;
    extensions = BEHIND(methods) + *methods;
    if (!is_shown(BEHIND(extensions), data_end))
        goto refuse;
    extension = BEHIND(extensions);
    if ((const void *)extension + bpf_ntohs(extensions->length) - data != end)
        goto refuse;

    for (int i = 0; i < EXTENSIONS; i++) {
        const struct server_name *entry = BEHIND(extension);
        __u32 size, kept, at;

        if (!is_shown(entry, data_end))
            break;
        if (bpf_ntohs(extension->type) != EXTENSION_SERVER_NAME) {
            extension = (const void *)entry + bpf_ntohs(extension->length);
            continue;
        }

        /* One host name is all of the extension, and it lies within the ClientHello. */
        if (!is_shown(BEHIND(entry), data_end) || entry->type != HOST_NAME)
            break;
        size = bpf_ntohs(entry->length);
        at = BEHIND(entry) - data;
        if (sizeof(*entry) + size != bpf_ntohs(extension->length) || at + size > end || size > LONGEST)
            break;
        kept = size < KEPT ? size : KEPT;
        if (tidegate_load_bytes(ctx, at + size - kept, name.bytes, kept))
            break;
        to_lower(&name);
        if (is_allowed(&name, kept == size))
            return TIDEGATE_ALLOW_CONNECTION;
        break;
    }
refuse:
    return drop(ctx, &name);

more:
    if (ctx->flags & TIDEGATE_STREAM_NO_MORE_DATA)
        goto refuse;
    return TIDEGATE_NEED_MORE_DATA;
}
