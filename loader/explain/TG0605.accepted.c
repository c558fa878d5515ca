#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u32 found = 0;

    /* 500 times 500 rounds are within what a link may allow. */
    for (__u32 first = 0; first < 500; first++)
        for (__u32 second = 0; second < 500; second++)
            found ^= bpf_get_prandom_u32() + second;
    return found == 7 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
