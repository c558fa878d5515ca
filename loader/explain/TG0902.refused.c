#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u64 mixed = ctx->flow_id;

    for (int i = 0; i < 1000; i++)
        for (int k = 0; k < 10000; k++)
            asm volatile("%0 ^= %1" : "+r"(mixed) : "r"(k));
    return mixed & 1 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
