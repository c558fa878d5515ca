// The eight programs of the bench: BPF bytecode for the machines, host code as `native`. One function each, in a section
// of its own; the same source for both targets. `struct shown` is the head of every context of Tidegate.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct shown {
    const u8 *data;
    const u8 *data_end;
};

#define PROGRAM(name) __attribute__((section("bench/" #name), used)) u64 name(const struct shown *shown)

// What a program makes of its result: a verdict, as the verifier asks. One more instruction.
#define VERDICT(result) ((result) & 1)

#ifdef __bpf__
static u64 (*const helper)(u64) = (void *)8;
#else
// Out of line, as a call of a helper is.
__attribute__((noinline)) static u64 helper(u64 number)
{
    __asm__ volatile("" : "+r"(number));
    return 3;
}
#endif

// (a) Arithmetic in registers only.
PROGRAM(alu)
{
    u64 x = 88172645463325252ull;
    u32 sum = 0;
    for (u32 i = 0; i < 10000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        sum += (u32)x ^ i;
    }
    return VERDICT(sum);
}

// (b) Looks for an 8-byte pattern at every offset; it is not there, though its first byte often is.
PROGRAM(scan)
{
    const u8 *data = shown->data, *end = shown->data_end;
    for (u32 i = 0; i < 1460; i++) {
        const u8 *at = data + i;
        if (at + 8 > end)
            break;
        if (at[0] == 'T' && at[1] == 'i' && at[2] == 'd' && at[3] == 'e' && at[4] == 'g' && at[5] == 'a' && at[6] == 't' &&
            at[7] == 'e')
            return VERDICT(i);
    }
    return VERDICT(0xffff);
}

struct rule {
    u32 remote, local;
    u16 remote_port, local_port;
    u8 protocol, unused[3];
};

// (c) Parses IPv4 and TCP, and compares the five-tuple with eight rules that lie behind the packet, so that every machine
// reads them in the same way. The last one matches.
PROGRAM(rules)
{
    const u8 *ip = shown->data, *end = shown->data_end;
    const struct rule *rule = (const void *)(ip + 64);
    if (ip + 64 + 8 * sizeof(*rule) > end)
        return 0;
    if (ip[0] >> 4 != 4)
        return 0;
    u32 header = (ip[0] & 15) * 4;
    if (header < 20 || ip[9] != 6)
        return 0;
    if (*(const u16 *)(ip + 6) & 0xff1f)
        return 0;
    const u8 *tcp = ip + header;
    if (tcp + 20 > end)
        return 0;
    u32 remote = *(const u32 *)(ip + 12), local = *(const u32 *)(ip + 16);
    u16 remote_port = *(const u16 *)tcp, local_port = *(const u16 *)(tcp + 2);
    for (u32 i = 0; i < 8; i++, rule++)
        if (rule->remote == remote && rule->local == local && rule->remote_port == remote_port &&
            rule->local_port == local_port && rule->protocol == 6)
            return VERDICT(i + 1);
    return 0;
}

// (d) The Internet checksum.
PROGRAM(checksum)
{
    const u8 *at = shown->data, *end = shown->data_end;
    u64 sum = 0;
    for (u32 i = 0; i < 730; i++, at += 2) {
        if (at + 2 > end)
            break;
        sum += *(const u16 *)at;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return VERDICT((u16)~sum);
}

// (e) A hundred helper calls.
PROGRAM(calls)
{
    u64 sum = 0;
    for (u32 i = 0; i < 100; i++)
        sum += helper(i);
    return VERDICT(sum);
}

// (f) FNV-1a over forty bytes of headers.
PROGRAM(fnv)
{
    const u8 *data = shown->data, *end = shown->data_end;
    if (data + 40 > end)
        return 0;
    u64 hash = 0xcbf29ce484222325ull;
    for (u32 i = 0; i < 40; i++) {
        hash ^= data[i];
        hash *= 0x100000001b3ull;
    }
    return VERDICT(hash);
}

// (g) The Toeplitz hash of receive-side scaling over addresses and ports, bit by bit.
PROGRAM(toeplitz)
{
    const u8 *data = shown->data, *end = shown->data_end;
    if (data + 40 > end)
        return 0;
    u64 key = 0x6d5a56da255b0ec2ull, more = 0x4167253d43a38fb0ull;
    u32 hash = 0;
    for (u32 i = 0; i < 12; i++) {
        u8 byte = data[12 + i];
        for (u32 bit = 0; bit < 8; bit++) {
            if (byte & (0x80 >> bit))
                hash ^= (u32)(key >> 32);
            key = key << 1 | more >> 63;
            more <<= 1;
        }
    }
    return VERDICT(hash);
}

// (x) Nothing at all: what a run costs.
PROGRAM(empty)
{
    return 0;
}
