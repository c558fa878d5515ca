/* What a Tidegate policy in C is compiled against. Made by `tidegate abi dump c`: do not edit.
 *
 *     clang -target bpf -mcpu=v3 -g -O2 -I programs/include -c policy.c -o policy.o
 *     tidegate verify policy.o
 */
#ifndef TIDEGATE_H
#define TIDEGATE_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;

#ifndef NULL
#define NULL ((void *)0)
#endif

/* Names the ELF section: SEC("tidegate/stream"), SEC("tidegate/send"), SEC(".maps"). */
#define SEC(name) __attribute__((section(name), used))
/* A function that is compiled into its callers, and one that never is. */
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
/* Members of a map's definition: a number, a type, an array of types. */
#define __uint(name, value) int (*name)[value]
#define __type(name, type) __typeof__(type) *name
#define __array(name, type) __typeof__(type) *name[]

/* Numbers of the network in the order of the machine, and back. */
#define bpf_ntohs(x) __builtin_bswap16(x)
#define bpf_htons(x) __builtin_bswap16(x)
#define bpf_ntohl(x) __builtin_bswap32(x)
#define bpf_htonl(x) __builtin_bswap32(x)

/* IP protocol numbers. */
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ICMPV6 58

/* Direction of stream bytes, and who opened the connection. */
#define TIDEGATE_OUTBOUND 0
#define TIDEGATE_INBOUND 1
#define TIDEGATE_OPENER_LOCAL 0
#define TIDEGATE_OPENER_REMOTE 1

/* A clone of what is shown: handed out, edited, injected or discarded; never looked into. */
struct tidegate_clone;

#define TIDEGATE_API_VERSION 3

/* What a program returns. */
enum tidegate_verdict {
    /* No opinion: the next program decides; the data passes when none does. */
    TIDEGATE_CONTINUE = 0,
    /* The data passes. */
    TIDEGATE_PERMIT = 1,
    /* The data is dropped: removed from the stream, or the packet is not sent. */
    TIDEGATE_BLOCK = 2,
    /* Streams: the data is held back and shown again with what follows it. */
    TIDEGATE_NEED_MORE_DATA = 3,
    /* Streams: the connection is reset. */
    TIDEGATE_DROP_CONNECTION = 4,
    /* Streams: the data passes, and the flow is never shown again. */
    TIDEGATE_ALLOW_CONNECTION = 5,
    /* Streams: the data is kept back, and shown again when more comes or a map changes. */
    TIDEGATE_PEND = 6,
};

/* Context of programs in section tidegate/stream. */
struct tidegate_stream {
    /* First byte shown. */
    const void *data;
    /* Behind the last byte shown. */
    const void *data_end;
    /* The flow's id, the same for both directions; not reused while the flow lives. */
    __u64 flow_id;
    /* The process that owns the local end, 0 when it is not known. */
    __u64 process_id;
    /* Bytes of this direction that a callout above took before these. Not 0: resynchronise or give up. */
    __u64 missed_bytes;
    /* TIDEGATE_STREAM_* bits of this indication. */
    __u32 flags;
    /* Direction of these bytes: 0 outbound (sent by this machine), 1 inbound. */
    __u32 direction;
    /* Who opened the connection: 0 this machine, 1 the remote one. */
    __u32 opener;
    /* Address family: 4 or 6. */
    __u32 family;
    /* Local port, host order. */
    __u16 local_port;
    /* Remote port, host order. */
    __u16 remote_port;
    /* Network compartment, 0 when it is not known. */
    __u32 compartment_id;
    /* Local address, network order. */
    __u8 local_addr[16];
    /* Remote address, network order. */
    __u8 remote_addr[16];
    /* The verdict covers so many of the bytes shown, the rest is shown again at once. 0: all of them.
     * Writable. */
    __u32 bytes_enforced;
    /* With NEED_MORE_DATA: so many more bytes are needed at least. 0: any. Writable. */
    __u32 bytes_required;
    /* Zero. */
    __u64 reserved;
};

/* Bits of tidegate_stream.flags. */
/* Out-of-band (urgent) data. */
#define TIDEGATE_STREAM_EXPEDITED 0x1u
/* The sender asked for prompt delivery. */
#define TIDEGATE_STREAM_PUSH 0x2u
/* The direction ends here (FIN). */
#define TIDEGATE_STREAM_DISCONNECT 0x4u
/* The connection was reset. */
#define TIDEGATE_STREAM_ABORT 0x8u
/* No more data can be had: NEED_MORE_DATA is refused. */
#define TIDEGATE_STREAM_NO_MORE_DATA 0x10u
/* The connection began before the link could see it: what it is shown first is not the beginning. */
#define TIDEGATE_STREAM_MID_STREAM 0x20u
/* The bytes were kept back (PEND) and are shown again. */
#define TIDEGATE_STREAM_HELD 0x40u

/* Context of programs in section tidegate/send. */
struct tidegate_send {
    /* First byte shown: the transport header (the IP header when RAW is set). */
    const void *data;
    /* Behind the last byte shown. */
    const void *data_end;
    /* The flow's id, 0 when there is none. */
    __u64 flow_id;
    /* The process that sends, 0 when it is not known. */
    __u64 process_id;
    /* TIDEGATE_SEND_* bits of this packet. */
    __u32 flags;
    /* IP protocol number: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6. */
    __u32 protocol;
    /* Address family: 4 or 6. */
    __u32 family;
    /* Bytes of the transport header: the payload starts at data + header_size. */
    __u32 header_size;
    /* Local port, host order; for ICMP the type. */
    __u16 local_port;
    /* Remote port, host order; for ICMP the code. */
    __u16 remote_port;
    /* Interface that the packet leaves by, 0 when it is not known. */
    __u32 interface_index;
    /* Network compartment, 0 when it is not known. */
    __u32 compartment_id;
    /* Zero. */
    __u32 reserved;
    /* Local address, network order. */
    __u8 local_addr[16];
    /* Remote address, network order. */
    __u8 remote_addr[16];
};

/* Bits of tidegate_send.flags. */
/* The packet stays on this machine. */
#define TIDEGATE_SEND_LOOPBACK 0x1u
/* A raw socket sends it: the data starts at the IP header. */
#define TIDEGATE_SEND_RAW 0x2u
/* Another driver injected it. */
#define TIDEGATE_SEND_REINJECTED 0x4u

/* Kinds of map, for __uint(type, ..). */
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_FLOW_STORAGE 24
#define BPF_MAP_TYPE_RINGBUF 27

/* Map flags, for __uint(map_flags, ..): programs may read, not write. */
#define BPF_F_RDONLY_PROG 0x80u
/* Flags of bpf_map_update_elem. */
#define BPF_ANY 0
#define BPF_NOEXIST 1
#define BPF_EXIST 2

/* Helpers that fail return one of these, negated. */
#define ENOENT 2
#define EIO 5
#define E2BIG 7
#define ENOMEM 12
#define EEXIST 17
#define EINVAL 22
#define EOPNOTSUPP 95

/* The value of a key, or null. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;

/* Sets the value of a key. Flags: 0 any, 1 only if it is new (BPF_NOEXIST), 2 only if it exists
 * (BPF_EXIST). */
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;

/* Deletes a key. */
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;

/* Nanoseconds since the machine started, not counting sleep; never runs backwards. */
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;

/* A pseudo-random number. Not for secrets. */
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)7;

/* Number of the processor that runs the program. */
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;

/* Copies a record into a ring buffer. A record that does not fit is dropped and counted. */
static long (*const bpf_ringbuf_output)(void *ringbuf, const void *data, __u32 size, __u64 flags) = (void *)130;

/* Reserves a zeroed record in a ring buffer, or null when it does not fit (counted). Submit or discard it. */
static void *(*const bpf_ringbuf_reserve)(void *ringbuf, __u64 size, __u64 flags) = (void *)131;

/* Hands a reserved record to the reader. */
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;

/* Gives a reserved record back unread. */
static void (*const bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)133;

/* Of a ring buffer: 0 bytes not yet read, 1 its size, 2 the reader's position, 3 the writer's position. */
static __u64 (*const bpf_ringbuf_query)(void *ringbuf, __u64 flags) = (void *)134;

/* Replaces `remove` bytes from `offset` of what is shown with `data`. Offsets always speak of the bytes as
 * shown; edits come in the order of their offsets and don't overlap. -EOPNOTSUPP where the length of a TCP
 * packet would change: use the stream layer for that. */
static long (*const tidegate_replace)(void *ctx, __u64 offset, __u64 remove, const void *data, __u32 size) = (void *)0x10000;

/* Inserts `data` before the byte at `offset` of what is shown; at its length: behind the last byte. */
static long (*const tidegate_insert)(void *ctx, __u64 offset, const void *data, __u32 size) = (void *)0x10001;

/* Removes `size` bytes from `offset` of what is shown. */
static long (*const tidegate_remove)(void *ctx, __u64 offset, __u64 size) = (void *)0x10002;

/* Offset of the first place at or behind `offset` where the bytes shown equal `pattern`, or -ENOENT. */
static long (*const tidegate_find)(void *ctx, __u64 offset, const void *pattern, __u32 size) = (void *)0x10003;

/* Copies `size` bytes from `offset` of what is shown; when not all of them are there, zeroes `to` and
 * returns -EINVAL. */
static long (*const tidegate_load_bytes)(void *ctx, __u64 offset, void *to, __u32 size) = (void *)0x10004;

/* The value of this connection, or null. Flag 1 makes it, zeroed, when there is none: for stream programs,
 * whose connections are known to end; null when the map is full. */
static void *(*const tidegate_flow_storage_get)(void *ctx, void *map, __u64 flags) = (void *)0x10005;

/* Deletes the value of this connection. The end of the connection does so too. */
static long (*const tidegate_flow_storage_delete)(void *ctx, void *map) = (void *)0x10006;

/* A clone of the bytes shown (FwpsCloneStreamData0), to be edited and injected; null when one is held
 * already. Inject or discard it. Programs in tidegate/stream only. */
static struct tidegate_clone *(*const tidegate_clone_stream_data)(struct tidegate_stream *ctx) = (void *)0x10010;

/* Injects the clone in place of the bytes shown (FwpsStreamInjectAsync0). The program must return BLOCK,
 * or both would pass. Programs in tidegate/stream only. */
static long (*const tidegate_stream_inject)(struct tidegate_stream *ctx, struct tidegate_clone *clone, __u64 flags) = (void *)0x10011;

/* Sends `data` of the program's own in a direction of the connection (0 outbound, 1 inbound), in front of
 * what is shown when it is the same. Flag 1 ends the direction behind it, where its own end is what is
 * shown. Nothing is sent when the verdict is NEED_MORE_DATA, PEND or DROP_CONNECTION. Programs in
 * tidegate/stream only. */
static long (*const tidegate_stream_inject_data)(struct tidegate_stream *ctx, __u64 direction, const void *data, __u32 size, __u64 flags) = (void *)0x10012;

/* Removes the `size` bytes of this direction that follow those shown, in whatever pieces they come: an
 * edit that reaches over the end of what is shown. The verdict must cover all bytes shown. Programs in
 * tidegate/stream only. */
static long (*const tidegate_remove_ahead)(struct tidegate_stream *ctx, __u64 size) = (void *)0x10013;

/* Copies the path of the program that owns the local end, as the filter engine gives it (UTF-16,
 * little-endian), zero behind its end, and returns all of its bytes; -ENOENT when it is not known.
 * Programs in tidegate/stream only. */
static long (*const tidegate_stream_application)(struct tidegate_stream *ctx, void *to, __u32 size) = (void *)0x10014;

/* A clone of the packet shown (FwpsAllocateCloneNetBufferList0), to be edited and injected; null when one
 * is held already. Inject or discard it. Programs in tidegate/send only. */
static struct tidegate_clone *(*const tidegate_clone_net_buffer_list)(struct tidegate_send *ctx) = (void *)0x10020;

/* Injects the clone in place of the packet shown (FwpsInjectTransportSendAsync1); lengths and checksums
 * are made right. The program must return BLOCK, or both would be sent. Programs in tidegate/send only. */
static long (*const tidegate_inject_transport_send)(struct tidegate_send *ctx, struct tidegate_clone *clone, __u64 flags) = (void *)0x10021;

/* Sends the packet, or its clone, to another address: 4 bytes for IPv4, 16 for IPv6, network order, of the
 * packet's own family (-EINVAL). `port` is UDP's, host order; 0 keeps it. Replies come from there.
 * -EOPNOTSUPP for TCP and for raw sends. Programs in tidegate/send only. */
static long (*const tidegate_set_remote)(struct tidegate_send *ctx, const void *address, __u32 size, __u64 port) = (void *)0x10022;

/* Sends the packet, or its clone, with this type of service (IPv4) or traffic class (IPv6): DSCP in the
 * upper six bits. -EOPNOTSUPP for TCP and for raw sends. Programs in tidegate/send only. */
static long (*const tidegate_set_tos)(struct tidegate_send *ctx, __u64 tos) = (void *)0x10023;

/* Replaces `remove` bytes from `offset` of the clone with `data`; offsets speak of the bytes as shown, as
 * with tidegate_replace. Size 0 removes. -EOPNOTSUPP where the length of a TCP packet would change: use
 * the stream layer for that. */
static long (*const tidegate_clone_replace)(struct tidegate_clone *clone, __u64 offset, __u64 remove, const void *data, __u32 size) = (void *)0x10030;

/* Gives a clone back without injecting it. */
static void (*const tidegate_clone_discard)(struct tidegate_clone *clone) = (void *)0x10031;

/* What an object is compiled against, for its loader to see. */
static const __u16 __tidegate_abi SEC("tidegate.abi") = TIDEGATE_API_VERSION;

#endif
