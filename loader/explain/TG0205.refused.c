#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    void *volatile kept = (void *)ctx->data;

    /* Half of the pointer, as if it were a number. */
    return *(volatile __u32 *)&kept ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
