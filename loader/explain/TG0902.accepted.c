#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u64 mixed = ctx->flow_id;

    for (int i = 0; i < 100; i++)
        asm volatile("%0 ^= %1" : "+r"(mixed) : "r"(i));
    return mixed & 1 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
