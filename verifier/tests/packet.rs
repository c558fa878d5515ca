//! Packet bounds: each byte that is read was compared with `data_end`.
mod common;
use common::{accepts, refuses};

const HEAD: &str = "
    r2 = *(u64 *)(r1 + 0)
    r3 = *(u64 *)(r1 + 8)
";

fn packet(rest: &str) -> String {
    format!("{HEAD}{rest}\n out:\n r0 = 0\n exit")
}

#[test]
fn bytes_that_were_compared_may_be_read() {
    for compare in [
        "if r4 > r3 goto out",
        "if r3 < r4 goto out",
        "if r4 >= r3 goto out",
        "if r3 <= r4 goto out",
        "if r4 <= r3 goto read\n goto out\n read:",
        "if r3 >= r4 goto read\n goto out\n read:",
        "if r4 < r3 goto read\n goto out\n read:",
        "if r3 > r4 goto read\n goto out\n read:",
        "if r4 == r3 goto read\n goto out\n read:",
        "if r3 != r4 goto out",
    ] {
        accepts(&packet(&format!("r4 = r2\n r4 += 14\n {compare}\n r0 = *(u32 *)(r2 + 10)")));
        refuses(
            &packet(&format!("r4 = r2\n r4 += 13\n {compare}\n r0 = *(u32 *)(r2 + 11)")),
            "TG0303",
            if compare.contains("read") { 6 } else { 5 },
        );
    }
}

#[test]
fn the_message_says_what_was_compared() {
    let told =
        refuses(&packet("r4 = r2\n r4 += 14\n if r4 > r3 goto out\n r0 = *(u32 *)(r2 + 14)"), "TG0303", 5);
    assert_eq!(
        told,
        "r2 may read 4 bytes at data+14..+18, but only the first 14 bytes were compared with data_end \
         (at instruction 4)"
    );
}

#[test]
fn nothing_may_be_read_before_it_is_compared() {
    refuses(&packet("r0 = *(u8 *)(r2 + 0)"), "TG0303", 2);
    refuses(&packet("r4 = r2\n r4 += 8\n if r4 > r3 goto out\n r0 = *(u8 *)(r2 - 1)"), "TG0303", 5);
    refuses(&packet("r0 = *(u8 *)(r3 + 0)"), "TG0301", 2);
    // The wrong side of the comparison.
    refuses(&packet("r4 = r2\n r4 += 8\n if r4 < r3 goto out\n r0 = *(u8 *)(r2 + 0)"), "TG0303", 5);
}
