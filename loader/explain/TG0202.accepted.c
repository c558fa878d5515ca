#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u64 shown = (char *)ctx->data_end - (char *)ctx->data;

    return shown * 2 > 4096 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
