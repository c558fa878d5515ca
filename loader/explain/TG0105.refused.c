#include <tidegate.h>

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    bpf_ktime_get_ns();
    /* "This is never reached": clang lets the function end without a return. */
    __builtin_unreachable();
}
