#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u32 found = 0;

    /* 5,000 times 5,000 rounds: every one ends, and nobody waits for it. */
    for (__u32 first = 0; first < 5000; first++)
        for (__u32 second = 0; second < 5000; second++)
            found ^= bpf_get_prandom_u32() + second;
    return found == 7 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
