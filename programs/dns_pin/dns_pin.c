// SPDX-License-Identifier: Apache-2.0 OR MIT
// Sends queries to one resolver, whomever they were for: UDP is sent there instead, TCP to any other is dropped.
//
// Answers come from where the query went. A program that wants them from where it sent it needs a partner on the way in that
// puts the old address back, and there is no inbound hook for datagrams: the README says what works without.

#include <tidegate.h>

#define PORT 53
#define IPV4_SIZE 4
#define ADDRESS_SIZE 16

struct resolver {
    __u8 address[ADDRESS_SIZE]; /* IPv4 in the first four, the others 0 */
    __u16 port;
};

/* By address family, 4 and 6. Queries over a family without one are dropped. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, struct resolver);
} resolvers SEC(".maps");

static __always_inline int is_for(const struct tidegate_send *ctx, const struct resolver *resolver)
{
    __u8 address[ADDRESS_SIZE];

    __builtin_memcpy(address, ctx->remote_addr, sizeof(address));
    for (int i = 0; i < ADDRESS_SIZE; i++) {
        if (address[i] != resolver->address[i])
            return 0;
    }
    return ctx->remote_port == resolver->port;
}

SEC("tidegate/send")
int dns_pin(struct tidegate_send *ctx)
{
    const struct resolver *resolver;
    __u32 family = ctx->family;

    if (ctx->remote_port != PORT || (ctx->protocol != IPPROTO_UDP && ctx->protocol != IPPROTO_TCP))
        return TIDEGATE_CONTINUE;
    resolver = bpf_map_lookup_elem(&resolvers, &family);
    if (!resolver)
        return TIDEGATE_BLOCK;
    if (is_for(ctx, resolver))
        return TIDEGATE_CONTINUE;
    /* Fails for TCP, whose connection is with someone else, and for raw sends. */
    if (tidegate_set_remote(ctx, resolver->address, family == 4 ? IPV4_SIZE : ADDRESS_SIZE, resolver->port))
        return TIDEGATE_BLOCK;
    return TIDEGATE_CONTINUE;
}
