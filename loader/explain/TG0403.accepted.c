#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    char name[16] = {};
    __u64 shown = (char *)ctx->data_end - (char *)ctx->data;

    if (shown > sizeof(name))
        shown = sizeof(name);
    tidegate_load_bytes(ctx, 0, name, shown);
    return name[0] == 'X' ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
