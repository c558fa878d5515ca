#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    tidegate_remove(ctx, 0, 4);
    return TIDEGATE_PERMIT;
}
