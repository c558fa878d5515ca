// SPDX-License-Identifier: Apache-2.0 OR MIT
// Lets everything pass: the smallest policy, and the floor of every measurement.

#include <tidegate.h>

SEC("tidegate/stream")
int permit_all_stream(struct tidegate_stream *ctx)
{
    return TIDEGATE_PERMIT;
}

SEC("tidegate/send")
int permit_all_send(struct tidegate_send *ctx)
{
    return TIDEGATE_PERMIT;
}
