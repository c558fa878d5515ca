//! Mistakes that verifiers of this kind are known to have made, one test each: the program that would come through.
mod common;
use common::{accepts, judge};
use tidegate_abi::ProgramType;
use tidegate_abi::helper::Capability;

/// Two numbers that nobody knows (r7, r8), and a value of 64 bytes (r9); `rest` does what it likes with them.
fn with_value(rest: &str) -> String {
    format!(
        "r6 = r1\n r7 = *(u64 *)(r1 + 16)\n r8 = *(u64 *)(r1 + 24)\n r9 = value 1 + 0
         {rest}\n out:\n r0 = 0\n exit"
    )
}

/// The same, and r7 is the distance of a byte that is read.
fn indexed(rest: &str) -> String {
    with_value(&format!("{rest}\n r9 += r7\n r0 = *(u8 *)(r9 + 0)"))
}

fn packet(rest: &str) -> String {
    format!("r6 = r1\n r7 = *(u64 *)(r1 + 0)\n r8 = *(u64 *)(r1 + 8)\n {rest}\n out:\n r0 = 0\n exit")
}

#[track_caller]
fn refused(text: &str) {
    let judged = judge(ProgramType::Stream, text);
    assert!(judged.is_err(), "accepted:\n{text}");
}

#[test]
fn bounds_of_the_lower_half_say_nothing_of_the_whole() {
    refused(&indexed("if w7 > 63 goto out"));
    refused(&indexed("if w7 s> 63 goto out\n if w7 s< 0 goto out"));
    refused(&indexed("if w7 != 5 goto out"));
    refused(&indexed("w8 = w7\n if r8 > 63 goto out"));
    accepts(&indexed("w7 = w7\n if w7 > 63 goto out"));
}

#[test]
fn bounds_of_the_whole_hold_for_the_lower_half_only_where_the_upper_can_not_change() {
    // From 2^32 - 1 to 2^32 + 1 the lower half is anything but between the bounds' lower halves.
    refused(&indexed(
        "r1 = 0xffffffff ll\n r2 = 0x100000001 ll\n if r7 < r1 goto out\n if r7 > r2 goto out\n w7 = w7",
    ));
    accepts(&indexed(
        "r1 = 0x100000000 ll\n r2 = 0x10000003f ll\n if r7 < r1 goto out\n if r7 > r2 goto out\n w7 = w7",
    ));
}

/// Two numbers of 32 bits (r7, r8), of which r8 - r7 is the distance of a byte that is read, when it is at most 63.
fn apart(rest: &str) -> String {
    let rest =
        format!("r7 = *(u32 *)(r6 + 40)\n r8 = *(u32 *)(r6 + 44)\n {rest}\n r8 -= r7\n if r8 s> 63 goto out");
    with_value(&format!("{rest}\n r9 += r8\n r0 = *(u8 *)(r9 + 0)"))
}

#[test]
fn the_signed_order_of_lower_halves_is_not_that_of_the_whole() {
    // 0xffffffff is -1 in the lower half, and far above 1 in the whole.
    refused(&apart("if w8 s< w7 goto out"));
    refused(&apart("if w7 s> w8 goto out"));
    refused(&apart("if w7 s>= w8 goto out"));
    accepts(&apart("if w8 < w7 goto out"));
    accepts(&apart("w7 >>= 1\n w8 >>= 1\n if w8 s< w7 goto out"));
    accepts(&apart("if r8 s< r7 goto out"));
}

#[test]
fn bits_and_bounds_agree_after_and_or_and_xor() {
    refused(&indexed("r7 &= 63\n r7 |= 64"));
    refused(&indexed("r7 &= 63\n r7 ^= 64"));
    refused(&indexed("if r7 > 63 goto out\n if r8 > 64 goto out\n r7 ^= r8"));
    refused(&indexed("if r7 > 63 goto out\n if r8 > 64 goto out\n r7 |= r8"));
    refused(&indexed("w7 |= 0\n w7 ^= -1"));
    refused(&indexed("if r7 > 1 goto out\n r7 ^= -1"));
    accepts(&indexed("if r7 > 63 goto out\n if r8 > 63 goto out\n r7 ^= r8"));
    accepts(&indexed("r7 &= r8\n r7 &= 63\n r7 |= 1"));
}

#[test]
fn a_shift_counts_only_the_lowest_bits_of_its_amount() {
    refused(&indexed("r7 &= 63\n r7 >>= r8".replace("r7 &= 63", "r7 = 128").as_str()));
    refused(&indexed("r7 = 64\n r8 = 64\n r7 >>= r8"));
    refused(&indexed("r7 = 64\n r8 = 32\n w7 >>= w8"));
    refused(&indexed("r7 = 1\n r8 &= 7\n r7 <<= r8"));
    refused(&indexed("r7 = 1\n if r8 > 69 goto out\n if r8 < 64 goto out\n r7 <<= r8\n r7 += 32"));
    refused(&indexed("r7 s>>= 1"));
    refused(&indexed("w7 s>>= 31"));
    accepts(&indexed("r7 = 63\n r7 >>= r8"));
    accepts(&indexed("r7 >>= 58"));
}

#[test]
fn a_spilled_half_comes_back_with_the_sign_of_its_load() {
    refused(&indexed("*(u64 *)(r10 - 8) = r7\n r7 = *(s32 *)(r10 - 8)\n if r7 s> 63 goto out"));
    refused(&indexed("r7 = -1\n *(u32 *)(r10 - 8) = r7\n r7 = *(u32 *)(r10 - 8)\n r7 += 1"));
    refused(&indexed("r7 = -1\n *(u32 *)(r10 - 8) = r7\n r7 = *(s32 *)(r10 - 8)"));
    refused(&indexed("r7 &= 63\n *(u64 *)(r10 - 8) = r7\n *(u8 *)(r10 - 7) = 1\n r7 = *(u64 *)(r10 - 8)"));
    refused(&indexed("*(u64 *)(r10 - 8) = 0\n *(u32 *)(r10 - 4) = r7\n r7 = *(u64 *)(r10 - 8)"));
    // A bound learned after the spill holds for what was spilled whole, and not for a piece of it.
    accepts(&indexed("*(u64 *)(r10 - 8) = r7\n if r7 > 63 goto out\n r7 = *(u64 *)(r10 - 8)"));
    refused(&indexed("*(u32 *)(r10 - 8) = r7\n r1 = *(u32 *)(r10 - 8)\n if r1 > 63 goto out"));
}

#[test]
fn equal_and_not_equal_teach_their_own_width() {
    refused(&indexed("r1 = 5\n if w7 != w1 goto out"));
    refused(&indexed("if w7 == 0 goto use\n goto out\n use:\n r7 += 0"));
    refused(&indexed("r7 &= 127\n if r7 == 64 goto out"));
    // The lower halves are equal here, so that the way to `use` is taken.
    refused(&with_value(
        "r1 = 0x100000005 ll\n if w1 == 5 goto use\n goto out\n use:\n r9 += r1\n r0 = *(u8 *)(r9 + 0)",
    ));
    accepts(&indexed("if r7 != 5 goto out"));
    accepts(&indexed("r7 &= 127\n r7 >>= 1\n if r7 == 63 goto out\n r7 += 1"));
}

#[test]
fn a_pointer_and_a_number_do_not_come_round() {
    refused(&indexed("if r7 s> 63 goto out"));
    refused(&with_value("r1 = 0x7fffffffffffffff ll\n r9 += r1\n r9 += r1\n r0 = *(u8 *)(r9 + 0)"));
    refused(&packet(
        "r1 = *(u64 *)(r6 + 16)\n r2 = r7\n r2 += r1\n r3 = r2\n r3 += 8\n if r3 > r8 goto out\n r0 = *(u64 *)(r2 + 0)",
    ));
    refused(&packet(
        "r1 = *(u64 *)(r6 + 16)\n r1 <<= 32\n r2 = r7\n r2 += r1\n r3 = r2\n r3 += 8\n if r3 > r8 goto out\n r0 = *(u64 *)(r2 + 0)",
    ));
    refused(&packet("r2 = r7\n r2 += -1\n if r2 > r8 goto out\n r0 = *(u8 *)(r2 + 0)"));
    refused(&packet(
        "r2 = r7\n r1 = 0x7fffffffffffffff ll\n r2 += r1\n if r2 > r8 goto out\n r0 = *(u8 *)(r7 + 0)",
    ));
    accepts(&packet(
        "r1 = *(u16 *)(r6 + 56)\n r2 = r7\n r2 += r1\n r3 = r2\n r3 += 8\n if r3 > r8 goto out\n r0 = *(u64 *)(r2 + 0)",
    ));
}

#[test]
fn the_end_of_what_is_shown_does_not_come_round_either() {
    // `data_end + 2^63 - 1 - data` is negative as soon as a byte is shown: a bound of at least 2^63 - 1 is none.
    for step in ["r1 = 0x7fffffffffffffff ll", "r1 = 0x4000000000000000 ll\n r2 = r1\n r2 += -1\n r8 += r2"] {
        refused(&packet(&format!(
            "r9 = value 1 + 0\n {step}\n r8 += r1\n r8 -= r7\n r1 = 0x7fffffffffffffff ll\n r8 -= r1\n r9 += r8\n r0 = *(u8 *)(r9 + 0)"
        )));
    }
    accepts(&packet("r8 += 8\n r8 -= r7\n if r8 > 72 goto out\n if r8 < 9 goto out\n r0 = *(u8 *)(r7 + 0)"));
}

#[test]
fn half_an_address_may_be_null() {
    // An address at a multiple of 2^32: the way that only a null pointer would go is walked.
    for end in ["r7", "r8"] {
        let half = format!("w2 = w{}\n r9 = value 1 + 0\n", &end[1..]);
        refused(&packet(&format!("{half} if r2 != 0 goto out\n r0 = *(u64 *)(r9 + 64)")));
        refused(&packet(&format!("{half} if r2 == 0 goto bad\n goto out\n bad:\n r0 = *(u64 *)(r9 + 64)")));
    }
}

#[test]
fn a_variable_distance_counts_as_often_as_it_is_added() {
    accepts(&indexed("r7 &= 63"));
    refused(&indexed("r7 &= 63\n r9 += r7"));
    refused(&packet(
        "r1 = *(u16 *)(r6 + 56)\n r2 = r7\n r2 += r1\n r3 = r2\n r3 += 8\n if r3 > r8 goto out\n r2 += r1\n r0 = *(u64 *)(r2 + 0)",
    ));
    refused(&packet(
        "r1 = *(u16 *)(r6 + 56)\n r2 = r7\n r2 += r1\n if r2 > r8 goto out\n r0 = *(u8 *)(r2 + 0)",
    ));
}

#[test]
fn a_comparison_of_one_place_says_nothing_of_another() {
    // Two numbers of the same bounds are not the same number.
    refused(&packet(
        "r1 = *(u16 *)(r6 + 56)\n r5 = *(u16 *)(r6 + 58)\n r2 = r7\n r2 += r1\n r3 = r7\n r3 += r5\n r3 += 8\n if r3 > r8 goto out\n r0 = *(u64 *)(r2 + 0)",
    ));
    // Nor is a number that changed since.
    refused(&packet(
        "r1 = *(u16 *)(r6 + 56)\n r2 = r7\n r2 += r1\n r2 += 8\n if r2 > r8 goto out\n r1 = *(u16 *)(r6 + 56)\n r2 = r7\n r2 += r1\n r0 = *(u64 *)(r2 + 0)",
    ));
    refused(&packet("r2 = r7\n r2 += 8\n r3 = r7\n r3 += 9\n if r2 > r3 goto out\n r0 = *(u8 *)(r7 + 0)"));
    refused(&packet("r2 = r8\n r2 += -8\n r3 = r8\n if r2 > r3 goto out\n r0 = *(u8 *)(r7 + 0)"));
    // On two paths, two comparisons: behind their meeting only the lesser holds.
    let meet = |bytes: i32| {
        packet(&format!(
            "r1 = *(u64 *)(r6 + 16)\n r2 = r7\n r3 = r7\n r2 += 4\n r3 += 8\n if r1 == 0 goto short\n if r3 > r8 goto out\n goto both\n short:\n if r2 > r8 goto out\n both:\n r0 = *(u8 *)(r7 + {bytes})"
        ))
    };
    accepts(&meet(3));
    refused(&meet(4));
}

#[test]
fn a_recorded_edit_moves_no_data() {
    // Edits are carried out after the run, so that what was compared stays compared: no helper invalidates the packet.
    accepts(&packet(
        "r2 = r7\n r2 += 8\n if r2 > r8 goto out\n r1 = r6\n r2 = 0\n r3 = 4\n call tidegate_remove\n r0 = *(u64 *)(r7 + 0)",
    ));
    // Its registers are gone all the same.
    refused(&packet(
        "r2 = r7\n r2 += 8\n if r2 > r8 goto out\n r3 = r7\n r1 = r6\n r2 = 0\n call tidegate_remove\n r0 = *(u64 *)(r3 + 0)",
    ));
}

#[test]
fn null_is_checked_of_the_pointer_that_is_used() {
    let two = |rest: &str| {
        let lookup = "r2 = r10\n r2 += -8\n r1 = map 0\n call bpf_map_lookup_elem";
        format!(
            "*(u64 *)(r10 - 8) = 0\n {lookup}\n r6 = r0\n {lookup}\n r7 = r0\n {rest}\n out:\n r0 = 0\n exit"
        )
    };
    refused(&two("if r6 == 0 goto out\n r1 = *(u64 *)(r7 + 0)"));
    refused(&two("if r6 != r7 goto out\n r1 = *(u64 *)(r7 + 0)"));
    refused(&two("if r6 == 0 goto out\n r6 = r7\n r1 = *(u64 *)(r6 + 0)"));
    // A loop's second round looks up another value.
    refused("*(u64 *)(r10 - 8) = 0\n r6 = 0\n r7 = r10\n top:\n r2 = r10\n r2 += -8\n r1 = map 0\n call bpf_map_lookup_elem
        if r6 == 0 goto first\n r1 = *(u64 *)(r7 + 0)\n first:\n r7 = r0\n r6 += 1\n if r6 < 3 goto top\n r0 = 0\n exit");
    accepts(&two(
        "if r6 == 0 goto out\n if r7 == 0 goto out\n r1 = *(u64 *)(r6 + 0)\n r1 = *(u64 *)(r7 + 0)",
    ));
}

#[test]
fn what_may_be_null_does_not_move_before_the_check() {
    let lookup = "*(u64 *)(r10 - 8) = 0\n r2 = r10\n r2 += -8\n r1 = map 0\n call bpf_map_lookup_elem";
    for step in ["r0 += 8", "r0 -= 8", "r1 = 8\n r1 += r0", "w0 += 8", "r0 |= 1"] {
        refused(&format!(
            "{lookup}\n {step}\n if r0 == 0 goto out\n r0 = *(u64 *)(r0 + 0)\n out:\n r0 = 0\n exit"
        ));
    }
}

#[test]
fn a_pointer_that_went_anywhere_may_be_null() {
    // The first way is walked although the pointer came from no lookup: `data + x` is zero for some x.
    for pointer in ["r7", "r10", "r9"] {
        let text = format!(
            "r7 = *(u64 *)(r1 + 0)\n r8 = *(u64 *)(r1 + 16)\n r9 = value 1 + 0\n r2 = {pointer}\n r2 += r8
             if r2 != 0 goto out\n r0 = *(u64 *)(r9 + 64)\n out:\n r0 = 0\n exit"
        );
        refused(&text);
    }
}

#[test]
fn a_record_is_given_back_once_and_not_used_afterwards() {
    let reserve = "r1 = map 3\n r2 = 16\n r3 = 0\n call bpf_ringbuf_reserve\n if r0 == 0 goto out\n r6 = r0";
    let submit = "r1 = r6\n r2 = 0\n call bpf_ringbuf_submit";
    accepts(&format!("{reserve}\n {submit}\n out:\n r0 = 0\n exit"));
    refused(&format!("{reserve}\n {submit}\n {submit}\n out:\n r0 = 0\n exit"));
    refused(&format!("{reserve}\n {submit}\n r1 = *(u64 *)(r6 + 0)\n out:\n r0 = 0\n exit"));
    // In the second round of a loop.
    refused(&format!(
        "{reserve}\n r7 = 0\n top:\n {submit}\n r7 += 1\n if r7 < 2 goto top\n out:\n r0 = 0\n exit"
    ));
    // In a function, and then by its caller.
    refused(&format!(
        "{reserve}\n r1 = r6\n call give\n {submit}\n out:\n r0 = 0\n exit\n give:\n r2 = 0\n call bpf_ringbuf_submit\n r0 = 0\n exit"
    ));
}

#[test]
fn paths_are_cut_short_only_where_all_that_matters_is_the_same() {
    // Precision: the number that one path made small and the other large decides an access behind their meeting.
    refused(&with_value("r1 = 0\n if r8 == 0 goto meet\n r1 = 64\n meet:\n r9 += r1\n r0 = *(u8 *)(r9 + 0)"));
    refused(&with_value("r1 = 64\n if r8 == 0 goto meet\n r1 = 0\n meet:\n r9 += r1\n r0 = *(u8 *)(r9 + 0)"));
    // The same through the stack, and through a second meeting.
    refused(&with_value(
        "*(u64 *)(r10 - 8) = 0\n if r8 == 0 goto meet\n *(u64 *)(r10 - 8) = 64\n meet:\n if r7 == 0 goto on\n r7 = 1\n on:\n r1 = *(u64 *)(r10 - 8)\n r9 += r1\n r0 = *(u8 *)(r9 + 0)",
    ));
    // Liveness: a register that is read late.
    refused(&with_value(
        "r1 = 0\n if r8 == 0 goto meet\n r1 = r10\n meet:\n if r7 == 0 goto on\n r7 = 1\n on:\n r0 = r1\n if r0 > 2 goto out\n exit",
    ));
    // References: a record that only one path holds.
    refused(
        "r6 = *(u64 *)(r1 + 16)\n r0 = 0\n if r6 == 0 goto meet\n r1 = map 3\n r2 = 8\n r3 = 0\n call bpf_ringbuf_reserve\n meet:\n r0 = 0\n exit",
    );
    // Kinds: a pointer on one path, a number on the other.
    refused(&with_value("r1 = r9\n if r8 == 0 goto meet\n r1 = r8\n meet:\n r0 = *(u8 *)(r1 + 0)"));
    // Relations: the sum is the sum of these two on one path only.
    refused(&packet(
        "r1 = *(u16 *)(r6 + 56)\n r5 = *(u16 *)(r6 + 58)\n r4 = r1\n r0 = *(u64 *)(r6 + 16)\n if r0 == 0 goto meet\n r4 = r5\n meet:\n r2 = r7\n r2 += r4\n r3 = r2\n r3 += 8\n if r3 > r8 goto out\n r2 = r7\n r2 += r1\n r0 = *(u64 *)(r2 + 0)",
    ));
}

#[test]
fn a_sum_whose_part_was_forgotten_is_no_sum_of_another() {
    // On one path r3 = r1 + n and r4 = r2 + n for one n, which is gone where the paths meet. There `r2 + (r3 - r1)` is
    // r4, which was compared with the end of the packet.
    let text = |second: &str| {
        packet(&format!(
            "r0 = *(u64 *)(r6 + 16)
             r1 = *(u16 *)(r6 + 56)
             r2 = *(u16 *)(r6 + 58)
             r5 = *(u8 *)(r6 + 64)
             r9 = *(u64 *)(r6 + 24)
             if r0 != 0 goto other
             r3 = r1
             r3 += r5
             r4 = r2
             r4 += r5
             goto meet
             other:
             {second}
             meet:
             r5 = r7
             r5 += r4
             r5 += 8
             if r5 > r8 goto out
             r3 -= r1
             r2 += r3
             if r2 s< 0 goto out
             r5 = r7
             r5 += r2
             r0 = *(u64 *)(r5 + 0)"
        ))
    };
    accepts(&text("goto out"));
    // On the other path they are any numbers within the same bounds.
    refused(&text("r3 = *(u16 *)(r6 + 56)\n r4 = *(u16 *)(r6 + 58)"));
    refused(&text("r3 = *(u16 *)(r6 + 66)\n r4 = *(u16 *)(r6 + 68)\n r3 &= 0xfff\n r4 &= 0xfff"));
}

#[test]
fn a_loop_ends_in_the_machine_and_not_only_on_paper() {
    for endless in [
        // A counter that wraps before it gets there, or is put back, or steps over its bound.
        "r1 = 0\n top:\n w1 += 2\n if w1 != 7 goto top",
        "r1 = 0\n top:\n r1 += 1\n w1 &= 7\n if r1 != 8 goto top",
        "r1 = 10\n top:\n r1 -= 3\n if r1 != 0 goto top",
        // A bound that moves along.
        "r1 = 0\n r2 = 5\n top:\n r1 += 1\n r2 += 1\n if r1 < r2 goto top",
        // Every number is at least zero.
        "r1 = 5\n top:\n r1 -= 1\n if r1 >= 0 goto top",
        "r1 = *(u64 *)(r1 + 16)\n top:\n r1 <<= 1\n if r1 != 1 goto top",
    ] {
        refused(&format!("{endless}\n r0 = 0\n exit"));
    }
}

#[test]
fn a_loop_that_is_walked_at_once_counts_on_every_way_through_a_round() {
    let counts = |first: &str, second: &str| {
        with_value(&format!(
            "r2 = 0\n top:\n r3 = *(u64 *)(r6 + 16)\n if r3 == 0 goto other\n {first}\n goto meet\n other:\n {second}
             meet:\n if r2 < 50 goto top"
        ))
    };
    accepts(&counts("r2 += 1", "r2 += 1"));
    accepts(&counts("r2 += 1", "r4 = 1\n r2 += r4"));
    for (one, other) in [
        // One way counts, the other doesn't, or goes back, or begins anew.
        ("r2 += 1", "r2 += 0"),
        ("r2 += 1", "r2 -= 1"),
        ("r2 += 1", "r2 = 0"),
        ("r2 += 1", "if r2 > 3 goto meet\n r2 += 1"),
        ("r2 += 1", "if r2 == 3 goto meet\n r2 += 1"),
        // Through the stack, and through a function that was given the place.
        ("r2 += 1", "*(u64 *)(r10 - 8) = r2\n *(u32 *)(r10 - 8) = 0\n r2 = *(u64 *)(r10 - 8)"),
    ] {
        refused(&counts(one, other));
        refused(&counts(other, one));
    }
    // A state is kept where they meet, and covers the number of the other way, but not how far it came.
    let long = "r4 = 0\n".repeat(20);
    accepts(&counts(&format!("{long} r2 += 1"), &format!("{long} if r2 < 1 goto out\n r2 += 1")));
    refused(&counts(&format!("{long} r2 += 1"), &format!("{long} if r2 < 1 goto out")));
    refused(&counts(&format!("{long} if r2 < 1 goto out"), &format!("{long} r2 += 1")));
    let called = |store: &str| {
        format!(
            "*(u64 *)(r10 - 8) = 0\n top:\n r1 = r10\n r1 += -8\n call f\n r2 = *(u64 *)(r10 - 8)\n r2 += 1
             *(u64 *)(r10 - 8) = r2\n if r2 < 50 goto top\n r0 = 0\n exit\n f:\n r0 = 0\n {store}\n exit"
        )
    };
    accepts(&called("*(u64 *)(r1 - 8) = 0"));
    refused(&called("*(u64 *)(r1 + 0) = 0"));
    // The inner loop puts the outer one's counter back.
    refused(
        "r1 = 0\n top:\n r2 = 0\n inner:\n r1 = 0\n r2 += 1\n if r2 < 20 goto inner\n r1 += 1\n if r1 < 40 goto top\n r0 = 0\n exit",
    );
    // It counts down what the outer one counts up.
    refused(
        "r1 = 0\n top:\n r2 = 0\n inner:\n r1 -= 1\n r2 += 1\n if r2 < 20 goto inner\n r1 += 20\n if r1 < 40 goto top\n r0 = 0\n exit",
    );
    // In 32 bits it comes round before it gets there.
    refused("w1 = 1\n top:\n w1 += 2\n if w1 != 0 goto top\n r0 = 0\n exit");
    refused("w1 = -8\n top:\n w1 += 3\n if w1 s< 100 goto next\n r0 = 0\n exit\n next:\n w1 &= 7\n goto top");
}

#[test]
fn what_moves_with_a_counter_moves_as_often_and_no_further() {
    let walk = |start: &str, body: &str, rounds: u32| {
        with_value(&format!("{start}\n r3 = 0\n top:\n {body}\n r3 += 1\n if r3 < {rounds} goto top"))
    };
    for start in ["r2 = r10\n r2 += -64", "r2 = r9"] {
        accepts(&walk(start, "*(u8 *)(r2 + 0) = 1\n r2 += 1", 64));
        accepts(&walk(start, "*(u16 *)(r2 + 0) = 1\n r2 += 2", 32));
        accepts(&walk(start, "r2 += 1\n *(u8 *)(r2 - 1) = 1", 64));
        refused(&walk(start, "*(u8 *)(r2 + 0) = 1\n r2 += 1", 65));
        refused(&walk(start, "*(u8 *)(r2 + 0) = 1\n r2 += 2", 33));
        refused(&walk(start, "r2 += 1\n *(u8 *)(r2 + 0) = 1", 64));
        refused(&walk(start, "*(u8 *)(r2 + 0) = 1\n r2 += 1\n if r7 == 5 goto on\n r2 += 1\n on:", 40));
        // Twice in the loop, once by its copy.
        refused(&walk(start, "r4 = r2\n r4 += 1\n r2 = r4\n *(u8 *)(r2 + 0) = 1\n r2 += 1", 40));
        // Another pointer of the same kind, at the same distance.
        refused(&walk(
            &format!("{start}\n r5 = r2\n r5 += 40"),
            "*(u8 *)(r2 + 0) = 1\n r4 = r2\n r2 = r5\n r2 += 1\n r5 = r4\n r5 += 1",
            30,
        ));
    }
    // Down.
    accepts(&with_value(
        "r2 = 63\n top:\n r3 = r9\n r3 += r2\n *(u8 *)(r3 + 0) = 1\n r2 -= 1\n if r2 s>= 0 goto top",
    ));
    accepts(&with_value(
        "r2 = 64\n top:\n r2 -= 1\n r3 = r9\n r3 += r2\n *(u8 *)(r3 + 0) = 1\n if r2 != 0 goto top",
    ));
    refused(&with_value(
        "r2 = 63\n top:\n r3 = r9\n r3 += r2\n *(u8 *)(r3 + 0) = 1\n r2 -= 1\n if r2 s>= -1 goto top",
    ));
    refused(&with_value(
        "r2 = 64\n top:\n r3 = r9\n r3 += r2\n *(u8 *)(r3 + 0) = 1\n r2 -= 1\n if r2 != 0 goto top",
    ));
    // So far that the way is no number of 64 bits.
    accepts(&with_value(
        "r2 = r9\n r4 = 0x8000000000000000 ll\n r5 = 0x4000000000000000 ll\n r1 = 0\n top:\n r2 += 1\n r3 = r2\n r3 += r4\n r0 = 0
         in:\n r3 += r5\n r3 += r5\n r3 += r5\n r0 += 1\n if r0 > 100 goto never\n if r0 < 3 goto in
         r1 += 1\n if r1 < 5 goto top\n goto out\n never:\n r0 = *(u8 *)(r3 + 0)",
    ));
    // Behind the loop each is where the last round left it.
    accepts(&indexed("r7 = 0\n r3 = 0\n top:\n r7 += 1\n r3 += 1\n if r3 < 63 goto top"));
    refused(&indexed("r7 = 0\n r3 = 0\n top:\n r7 += 1\n r3 += 1\n if r3 < 64 goto top"));
}

#[test]
fn what_a_call_through_a_register_reaches_is_walked() {
    let function = "f:\n r0 = *(u64 *)(r1 + 0)\n r0 = 0\n exit";
    refused(&format!("r2 = code f\n r1 = 0\n callx r2\n exit\n {function}"));
    accepts(&format!("r2 = code f\n callx r2\n exit\n {function}"));
    // Two functions, by a number that nobody knows.
    let either = "r6 = r1\n r7 = *(u64 *)(r1 + 16)\n r2 = code f\n if r7 == 0 goto call\n r2 = code g\n call:\n r1 = r6\n callx r2\n exit";
    accepts(&format!("{either}\n {function}\n g:\n r0 = 1\n exit"));
    refused(&format!("{either}\n {function}\n g:\n r0 = *(u64 *)(r1 + 113)\n r0 = 0\n exit"));
}

#[test]
fn atomics_take_no_pointers() {
    for op in ["+=", "|=", "xchg", "cmpxchg"] {
        refused(&with_value(&format!("r0 = 0\n lock *(u64 *)(r9 + 0) {op} r10")));
        refused(&with_value(&format!(
            "r0 = 0\n *(u64 *)(r10 - 8) = r9\n r1 = 8\n lock *(u64 *)(r10 - 8) {op} r1\n r2 = *(u64 *)(r10 - 8)\n r3 = *(u8 *)(r2 + 0)"
        )));
    }
    refused(&with_value("r0 = r10\n r1 = 0\n lock *(u64 *)(r9 + 0) cmpxchg r1"));
    refused(&with_value(
        "*(u64 *)(r10 - 8) = r9\n r1 = 0\n lock *(u64 *)(r10 - 8) xchg r1\n r0 = *(u8 *)(r1 + 0)",
    ));
    // What was known of the place is not known after it.
    refused(&indexed("*(u64 *)(r10 - 8) = 0\n lock *(u64 *)(r10 - 8) += r7\n r7 = *(u64 *)(r10 - 8)"));
}

#[test]
fn a_pointer_that_was_overwritten_in_part_is_none() {
    for store in
        ["*(u8 *)(r10 - 8) = r7", "*(u8 *)(r10 - 1) = 0", "*(u32 *)(r10 - 8) = r7", "*(u64 *)(r10 - 12) = r7"]
    {
        refused(&with_value(&format!(
            "*(u64 *)(r10 - 8) = r9\n {store}\n r1 = *(u64 *)(r10 - 8)\n r0 = *(u8 *)(r1 + 0)"
        )));
    }
    // By a helper, and by a function that was given the place.
    refused(&with_value(
        "*(u64 *)(r10 - 8) = r9\n r1 = r6\n r2 = 0\n r3 = r10\n r3 += -1\n r4 = 1\n call tidegate_load_bytes\n r1 = *(u64 *)(r10 - 8)\n r0 = *(u8 *)(r1 + 0)",
    ));
    refused(
        "r9 = value 1 + 0\n *(u64 *)(r10 - 8) = r9\n r1 = r10\n r1 += -4\n call f\n r1 = *(u64 *)(r10 - 8)\n r0 = *(u8 *)(r1 + 0)\n r0 = 0\n exit\n f:\n *(u8 *)(r1 + 0) = 1\n r0 = 0\n exit",
    );
}

#[test]
fn a_size_of_zero_is_refused_where_the_helper_takes_none() {
    let find = |size: &str| with_value(&format!("r1 = r6\n r2 = 0\n r3 = r9\n {size}\n call tidegate_find"));
    refused(&find("r4 = 0"));
    refused(&find("r4 = r7\n r4 &= 7"));
    refused(&find("r4 = r7\n if r4 > 8 goto out"));
    accepts(&find("r4 = r7\n r4 &= 7\n r4 += 1"));
    // Where it takes zero, the memory must hold what else the size can be.
    let load =
        |size: &str| with_value(&format!("r1 = r6\n r2 = 0\n r3 = r9\n {size}\n call tidegate_load_bytes"));
    accepts(&load("r4 = r7\n r4 &= 63"));
    refused(&load("r4 = r7\n r4 &= 127"));
}

/// r7 once with its upper half cleared and once with all that it came with, when a function is called.
fn called(rest: &str) -> String {
    format!(
        "r6 = r1\n r7 = *(u64 *)(r1 + 16)\n r9 = value 1 + 0\n r1 = *(u32 *)(r6 + 52)
         if r1 != 0 goto met\n w7 = w7\n met:\n call f\n {rest}\n out:\n r0 = 0\n exit
         f:\n r0 = 0\n if r1 == 5 goto done\n r0 = 1\n done:\n exit"
    )
}

#[test]
fn what_is_known_of_a_callers_registers_distinguishes_the_states_of_a_function() {
    refused(&called("if w7 > 63 goto out\n r9 += r7\n r0 = *(u8 *)(r9 + 0)"));
    accepts(&called("w7 = w7\n if w7 > 63 goto out\n r9 += r7\n r0 = *(u8 *)(r9 + 0)"));
    // A number of which nothing is known is a number still.
    accepts(&called("r9 += 8\n *(u64 *)(r9 + 0) = r7"));
}

/// On one of two ways it is known that the context has no flags, by a number on the stack; the ways meet in a function.
fn flagged(rest: &str) -> String {
    // So many that the state at the function is kept.
    let long = "r4 = 0\n".repeat(12);
    format!(
        "r6 = r1\n r9 = value 1 + 0\n r3 = *(u32 *)(r6 + 40)\n if r3 > 0 goto other
         *(u64 *)(r10 - 8) = r3\n goto met\n other:\n *(u64 *)(r10 - 8) = 0\n met:\n {long} call f
         r3 = *(u32 *)(r6 + 40)\n if r3 == 0 goto out\n {rest}
         out:\n r1 = r10\n r1 += -8\n call f\n r0 = 0\n exit\n f:\n r0 = 0\n exit"
    )
}

#[test]
fn what_is_known_of_the_contexts_flags_holds_for_flags_that_are_read_later() {
    refused(&flagged("r0 = *(u8 *)(r9 + 64)"));
    accepts(&flagged("r0 = *(u8 *)(r9 + 63)"));
}

/// r8 is 5 on both of two ways that meet: by `first`, and by `second`. r7 is what it came with.
fn halved(first: &str, second: &str, rest: &str) -> String {
    let long = "r4 = 0\n".repeat(12);
    format!(
        "r6 = r1\n r7 = *(u64 *)(r1 + 16)\n r9 = value 1 + 0\n {long} r1 = *(u32 *)(r6 + 52)\n if r1 != 0 goto other
         {first}\n goto met\n other:\n {second}\n met:
         if r7 < 3 goto less\n goto use\n less:\n {rest}
         use:\n r9 += r8\n r0 = *(u8 *)(r9 + 0)\n out:\n r0 = 0\n exit"
    )
}

#[test]
fn a_lower_half_that_is_known_tells_of_the_whole_only_where_it_is_its_half() {
    let (half, number) = ("w8 = w7\n if w8 != 5 goto out", "r8 = 5");
    let (within, outside) = ("r0 = *(u8 *)(r9 + 63)", "r0 = *(u8 *)(r9 + 64)");
    accepts(&halved(half, half, outside));
    accepts(&halved(half, number, within));
    refused(&halved(half, number, outside));
    refused(&halved(number, half, outside));
    refused(&halved(number, number, outside));
}

#[test]
fn a_callers_register_is_a_number_still_behind_a_loop_of_a_function() {
    for (rounds, field) in
        [(1_000, "*(u64 *)(r1 + 16)"), (1_500_000, "*(u64 *)(r1 + 16)"), (1_500_000, "*(u32 *)(r1 + 44)")]
    {
        accepts(&format!(
            "r7 = {field}\n r9 = value 1 + 0\n call f\n *(u64 *)(r9 + 0) = r7\n r0 = 0\n exit
             f:\n r1 = 0\n top:\n r1 += 1\n if r1 < {rounds} goto top\n r0 = 0\n exit"
        ));
    }
}

/// Two numbers up to 15 (r1, r2), and what two ways make of them that meet; then bytes at `rest`, which `bad` leads to.
fn met(ways: [&str; 2], test: &str, rest: &str) -> String {
    let [first, second] = ways;
    let long = "r4 = 1\n".repeat(12);
    with_value(&format!(
        "r1 = r7\n r1 &= 15\n r2 = r8\n r2 &= 15\n r3 = *(u32 *)(r6 + 40)\n if r3 > 5 goto other\n {first}\n goto met
         other:\n {second}\n met:\n {long} {test}\n goto out\n bad:\n {rest}"
    ))
}

/// A number is known on both ways, on one of them by a name that others bear: those could not be what `test` asks for there.
#[test]
fn a_number_that_is_known_tells_of_others_only_where_it_bears_their_name() {
    let sum = "r8 = r1\n r8 += r2\n if r8 != 5 goto out\n r7 = r1\n r7 += r2";
    let half = "r2 = 0x200000000 ll\n r8 = r1\n r8 += r2\n w5 = w1\n w5 += -1\n if w5 != 4 goto out";
    for (by_name, by_number, test, known) in [
        (sum, "r8 = 5\n r7 = r1\n r7 += r2", "if r7 == 3 goto bad", "r8"),
        (
            half,
            "r2 = 0x200000000 ll\n r8 = r1\n r8 += r2\n r1 = 5",
            "r2 = 0x200000003 ll\n if r8 == r2 goto bad",
            "r1",
        ),
        (
            "r3 = r1\n r3 += r2\n if r2 != 5 goto out",
            "r3 = r8\n r3 &= 15\n r2 = 5",
            "r3 -= r1\n if r3 == 3 goto bad",
            "r2",
        ),
    ] {
        let read = |at: i64| format!("r9 += {known}\n r0 = *(u8 *)(r9 + {at})");
        accepts(&met([by_name, by_name], test, &read(64)));
        for ways in [[by_name, by_number], [by_number, by_name], [by_number, by_number]] {
            refused(&met(ways, test, &read(64)));
            accepts(&met(ways, test, &read(58)));
        }
    }
}

#[test]
fn a_pointer_that_a_function_stores_where_it_was_told_to_is_none_of_the_forgotten() {
    // r3 is a pointer to the caller's stack that the function left there; behind it lies one to a map value.
    let stored = |rest: &str| {
        let long = "r2 = 1\n".repeat(12);
        with_value(&format!(
            "*(u64 *)(r10 - 16) = r9\n r1 = r10\n r1 += -8\n call f\n r3 = *(u64 *)(r10 - 8)
             r1 = *(u32 *)(r6 + 40)\n if r1 > 5 goto on\n {long} on:\n r4 = *(u64 *)(r3 - 8)\n {rest}
             r0 = 0\n exit\n f:\n *(u64 *)(r1 + 0) = r1\n r0 = 0\n exit"
        ))
    };
    refused(&stored("*(u64 *)(r9 + 0) = r4"));
    accepts(&stored("r0 = *(u8 *)(r4 + 63)"));
}

#[test]
fn what_is_far_from_the_end_of_what_is_shown_may_have_come_round() {
    let far = |distance: &str| {
        with_value(&format!(
            "r7 = *(u64 *)(r6 + 0)\n r8 = *(u64 *)(r6 + 8)\n r2 = {distance} ll\n r8 += r2\n if r7 > r8 goto out
             r0 = *(u8 *)(r9 + 64)"
        ))
    };
    // 512 GiB before the end, which may be less than that from address 0.
    refused(&far("0xffffff8000000000"));
    // More before the end than is ever shown: nothing lies there.
    accepts(&far("0xfffffffffff00000"));
}

/// A loop in which r1 is the index less a number that nobody knows, and then the index comes back as the sum of both and 1. On
/// one of two ways r1 has gone `further` meanwhile; each round reads the byte at the index.
fn summed(further: u32) -> String {
    with_value(&format!(
        "r5 = *(u32 *)(r6 + 44)\n r5 &= 7\n r5 |= 16\n r8 = 0\n top:\n r3 = r9\n r3 += r5\n r0 = *(u8 *)(r3 + 0)
         r4 = *(u32 *)(r6 + 40)\n r1 = r5\n {}if r4 > 5 goto other\n r2 = 1\n r2 = 1\n r1 -= r7\n goto met
         other:\n r1 += {further}\n r1 -= r7\n met:\n r5 = r1\n r5 += r7\n r5 += 1\n r8 += 1\n if r8 < 4 goto top",
        "r2 = 1\n ".repeat(4)
    ))
}

/// No value bears the name of what the round started with where the ways meet: only a sum tells of it.
#[test]
fn what_a_round_started_with_is_no_other_number_where_only_a_sum_tells_of_it() {
    refused(&summed(100));
    accepts(&summed(0));
}

/// Finds the greatest number that can be added to `pointer` so that it is not less then: all ones but for the address.
#[test]
fn no_comparison_tells_where_a_pointer_comes_round() {
    let search = |pointer: &str, bits: u32| {
        with_value(&format!(
            "r7 = {pointer}\n r8 = 1\n r8 <<= {bits}\n r5 = 0\n r4 = 0\n top:\n r2 = r4\n r2 |= r8\n r3 = r7\n r3 += r2
             if r3 < r7 goto round\n r4 = r2\n round:\n r8 >>= 1\n r5 += 1\n if r5 < 64 goto top
             *(u64 *)(r9 + 0) = r4"
        ))
    };
    for pointer in ["*(u64 *)(r6 + 0)", "r10", "r9"] {
        refused(&search(pointer, 63));
        accepts(&search(pointer, 15));
    }
    // One guess at an address, or at its lower half.
    let guess = |rest: &str| with_value(&format!("r1 = *(u64 *)(r6 + 0)\n {rest}\n if r1 == 0 goto out"));
    refused(&guess("r2 = 0x123456789abc ll\n r1 -= r2"));
    refused(&guess("r1 = r9\n r1 += r7"));
    refused(&guess("w1 = w1\n w1 -= 4096"));
    accepts(&guess("r1 += 4096"));
}

/// A clone is injected on the first way; what is shown is dropped where the ways met, which takes data away on the other.
#[test]
fn what_is_dropped_in_place_of_a_clone_is_dropped_only_where_one_was_injected() {
    let ways = |first: &str, second: &str| {
        let long = "r3 = 1\n ".repeat(12);
        format!(
            "r6 = r1\n {long}r1 = r6\n call tidegate_clone_stream_data\n if r0 == 0 goto other\n r1 = r6\n r2 = r0\n {first}\n goto met
             other:\n {second}\n met:\n {long}r0 = 2\n exit"
        )
    };
    let inject = "r3 = 0\n call tidegate_stream_inject";
    let powers = |text: &str| accepts(text).capabilities().0 & Capability::DROP.0;
    assert_eq!(powers(&ways(inject, "r2 = 1")), Capability::DROP.0);
    assert_eq!(powers(&ways(inject, "r0 = 1\n exit")), 0);
}

/// A loop in which r1 counts, and the byte at r2 - r1 is read in each round. The first round also goes a way that is none, on
/// which r2 counts too: two ways are walked as one where a pointer was moved by 0, and apart where it was moved by r1. `step` is
/// what happens to r2 on the others.
fn moved_at_first(step: u32) -> String {
    with_value(&format!(
        "r7 &= 1\n r1 = 0\n r2 = 0\n top:\n r5 = r2\n r5 -= r1\n r3 = r9\n r3 += r5\n r0 = *(u8 *)(r3 + 0)
         r3 = r9\n r4 = 0\n if r7 == 0 goto met\n r3 += r1\n r4 = 1\n met:\n r0 = r3\n if r7 != 0 goto other
         if r4 == 0 goto other\n goto none\n other:\n r3 = r9\n r3 += r7\n r3 += r4\n r0 = *(u8 *)(r3 + 0)
         r2 += {step}\n r1 += 1\n if r1 < 8 goto top\n goto out\n none:\n r2 += 1\n r1 += 1\n if r1 < 8 goto top"
    ))
}

#[test]
fn what_moved_with_a_counter_in_the_first_round_only_is_not_named_by_it() {
    refused(&moved_at_first(0));
    accepts(&moved_at_first(1));
}
