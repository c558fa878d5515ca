#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    /* Where the data lies in memory is nobody's business. */
    return (__u64)ctx->data * 2 > 4096 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
