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

    /* Nothing counts the rounds: they are walked one by one, and there are too many. */
    while (state & 0xffffff)
        state = mixed(state);
    return state >> 31 ? TIDEGATE_BLOCK : TIDEGATE_PERMIT;
}
