#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    bpf_ktime_get_ns();
    return TIDEGATE_CONTINUE;
}
