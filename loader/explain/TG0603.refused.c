#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    struct tidegate_clone *clone = tidegate_clone_stream_data(ctx);

    if (!clone)
        return TIDEGATE_DROP_CONNECTION;
    tidegate_stream_inject(ctx, clone, 0);
    return TIDEGATE_PERMIT;
}
