#include <tidegate.h>

static __always_inline __u32 mixed(__u32 state)
{
    for (int step = 0; step < 12; step++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
    }
    return state;
}

SEC("tidegate/stream")
int example(struct tidegate_stream *ctx)
{
    __u32 state = 1;

    for (int round = 0; round < 100 && (state & 0xffffff); round++)
        state = mixed(state);
    return state >> 31 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
