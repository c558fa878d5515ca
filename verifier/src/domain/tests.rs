//! Every operation against every number that its operands stand for: in full on a machine of four bits (of eight for those
//! with one operand), at the edges on one of eight, and by chance on the real one.

extern crate std;

use std::collections::HashSet;
use std::println;
use std::vec::Vec;

use proptest::prelude::*;
use tidegate_abi::insn::alu;

use super::{Cmp, Num, Range, Scalar, Tnum, ones, sign_extend};

const OPERATIONS: [(u8, bool); 15] = [
    (alu::ADD, false),
    (alu::SUB, false),
    (alu::MUL, false),
    (alu::DIV, false),
    (alu::DIV, true),
    (alu::MOD, false),
    (alu::MOD, true),
    (alu::AND, false),
    (alu::OR, false),
    (alu::XOR, false),
    (alu::LSH, false),
    (alu::RSH, false),
    (alu::ARSH, false),
    (alu::NEG, false),
    (alu::MOV, false),
];

const COMPARISONS: [Cmp; 12] = [
    Cmp::Eq,
    Cmp::Ne,
    Cmp::Gt,
    Cmp::Ge,
    Cmp::Lt,
    Cmp::Le,
    Cmp::SGt,
    Cmp::SGe,
    Cmp::SLt,
    Cmp::SLe,
    Cmp::Set,
    Cmp::Clear,
];

/// `a op b` in `width` bits, by RFC 9669 section 4.1, written without looking at the domain.
fn compute(op: u8, signed: bool, a: u64, b: u64, width: u32) -> u64 {
    let (a, b) = (a & ones(width), b & ones(width));
    let (sa, sb) = (sign_extend(a, width), sign_extend(b, width));
    let amount = b as u32 & (width - 1);
    let result = match op {
        alu::ADD => a.wrapping_add(b),
        alu::SUB => a.wrapping_sub(b),
        alu::MUL => a.wrapping_mul(b),
        alu::DIV if b == 0 => 0,
        alu::MOD if b == 0 => a,
        alu::DIV if signed => sa.wrapping_div(sb) as u64,
        alu::MOD if signed => sa.wrapping_rem(sb) as u64,
        alu::DIV => a / b,
        alu::MOD => a % b,
        alu::AND => a & b,
        alu::OR => a | b,
        alu::XOR => a ^ b,
        alu::LSH => a << amount,
        alu::RSH => a >> amount,
        alu::ARSH => (sa >> amount) as u64,
        alu::NEG => a.wrapping_neg(),
        _ => b,
    };
    result & ones(width)
}

/// Whether `a cmp b` in `width` bits.
fn holds(cmp: Cmp, a: u64, b: u64, width: u32) -> bool {
    let (a, b) = (a & ones(width), b & ones(width));
    let (sa, sb) = (sign_extend(a, width), sign_extend(b, width));
    match cmp {
        Cmp::Eq => a == b,
        Cmp::Ne => a != b,
        Cmp::Gt => a > b,
        Cmp::Ge => a >= b,
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::SGt => sa > sb,
        Cmp::SGe => sa >= sb,
        Cmp::SLt => sa < sb,
        Cmp::SLe => sa <= sb,
        Cmp::Set => a & b != 0,
        Cmp::Clear => a & b == 0,
    }
}

/// A description and numbers that it stands for.
#[derive(Clone, Debug)]
struct Case<const W: u32> {
    scalar: Scalar<W>,
    members: Vec<u64>,
}

impl<const W: u32> Case<W> {
    /// With every number of a narrow machine.
    fn all(scalar: Scalar<W>) -> Self {
        Self { scalar, members: (0..=ones(W)).filter(|value| scalar.contains(*value)).collect() }
    }
}

/// Checks everything that takes one operand; returns how many numbers were tried.
fn check_one<const W: u32>(case: &Case<W>) -> u64 {
    let Case { scalar, members } = case;
    let half = W / 2;
    let widths = [W / 8, W / 4, half].into_iter().filter(|width| *width > 0);
    for &x in members {
        let holds = |what: &str, result: &Scalar<W>, value: u64| {
            assert!(
                result.contains(value),
                "{what} of {x:#x} is {value:#x}, not in {result:x?} ({scalar:x?})"
            );
        };
        holds("lower half", &scalar.zero_extend32(), x & ones(half));
        for width in widths.clone() {
            let extended = sign_extend(x, width) as u64 & ones(W);
            holds("zero extension", &scalar.zero_extend(width), x & ones(width));
            holds("sign extension", &scalar.sign_extend(width), extended);
            holds("sign extension to the half", &scalar.sign_extend_half(width), extended & ones(half));
            assert!(!scalar.fits_signed(width) || extended == x, "{x:#x} does not fit {width}: {scalar:x?}");
        }
        assert!(scalar.value().is_none_or(|value| value == x));
        assert!(scalar.low_value().is_none_or(|value| value == x & ones(half)));
        assert!((scalar.umin()..=scalar.umax()).contains(&x));
        assert!((scalar.smin()..=scalar.smax()).contains(&sign_extend(x, W)));
    }
    members.len() as u64
}

/// Checks the change of byte order for each width that an instruction may name; returns how many numbers were tried.
fn check_swap<const W: u32>(case: &Case<W>, swap: impl Fn(u64) -> u64) -> u64 {
    for width in [W / 4, W / 2, W] {
        let result = case.scalar.swap_bytes(width);
        for &x in &case.members {
            // All bytes in the other order: what was lowest is on top.
            let value = swap(x) >> (W - width);
            assert!(
                result.contains(value),
                "{x:#x} swapped in {width} bits is {value:#x}, not in {result:x?}"
            );
        }
    }
    3 * case.members.len() as u64
}

/// Checks everything that takes two operands; returns how many pairs of numbers were tried.
fn check_two<const W: u32>(a: &Case<W>, b: &Case<W>) -> u64 {
    let half = W / 2;
    let results: Vec<_> = OPERATIONS
        .iter()
        .map(|&(op, signed)| {
            let full = Scalar::alu(op, signed, &a.scalar, &b.scalar);
            (op, signed, full, Scalar::alu32(op, signed, &a.scalar, &b.scalar))
        })
        .collect();
    let learned = COMPARISONS.map(|cmp| {
        (cmp, Scalar::assume(cmp, &a.scalar, &b.scalar), Scalar::assume32(cmp, &a.scalar, &b.scalar))
    });
    let hull = a.scalar.hull(&b.scalar);
    let both = a.scalar.intersect(&b.scalar);
    let covers = a.scalar.covers(&b.scalar);
    for &x in &a.members {
        assert!(hull.contains(x), "{x:#x} not in the hull of {a:x?} and {b:x?}");
        for &y in &b.members {
            for (op, signed, full, low) in &results {
                let value = compute(*op, *signed, x, y, W);
                assert!(
                    full.contains(value),
                    "{x:#x} op {op:#x} {y:#x} = {value:#x} {full:x?}\n{a:x?}\n{b:x?}"
                );
                let value = compute(*op, *signed, x, y, half);
                assert!(
                    low.contains(value),
                    "{x:#x} op32 {op:#x} {y:#x} = {value:#x} {low:x?}\n{a:x?}\n{b:x?}"
                );
            }
            for (cmp, full, low) in &learned {
                for (learned, width) in [(full, W), (low, half)] {
                    if holds(*cmp, x, y, width) {
                        let kept = learned.as_ref().is_some_and(|(p, q)| p.contains(x) && q.contains(y));
                        assert!(kept, "{x:#x} {cmp:?} {y:#x} in {width} bits: {learned:x?}\n{a:x?}\n{b:x?}");
                    }
                }
            }
        }
    }
    for &y in &b.members {
        assert!(hull.contains(y), "{y:#x} not in the hull of {a:x?} and {b:x?}");
        assert!(!covers || a.scalar.contains(y), "{a:x?} covers {b:x?} without {y:#x}");
        if a.scalar.contains(y) {
            assert!(both.is_some_and(|both| both.contains(y)), "{y:#x} lost between {a:x?} and {b:x?}");
        }
    }
    (a.members.len() * b.members.len()) as u64
}

/// Each set of known bits, each pair of bounds (read unsigned, read signed, of the lower half), and each that two numbers
/// have.
fn every<const W: u32>() -> Vec<Case<W>> {
    let (top, half) = (ones(W), ones(W / 2));
    let mut scalars = HashSet::new();
    let mut seen = Vec::new();
    let mut add = |scalar: Scalar<W>| {
        let key = std::format!("{scalar:?}");
        if scalars.insert(key) {
            seen.push(Case::all(scalar));
        }
    };
    for mask in 0..=top {
        for value in (0..=top).filter(|value| value & mask == 0) {
            add(Scalar::from_full(Num { bits: Tnum { value, mask }, range: Range::unknown(W) }));
        }
    }
    for x in 0..=top {
        for y in x..=top {
            add(Scalar::between(x, y));
            let least = Range::unknown(W).smin;
            add(Scalar::signed_between(x as i64 + least, y as i64 + least));
            let [x, y] = [x, y].map(Scalar::constant);
            add(x.hull(&y));
        }
    }
    for x in 0..=half {
        for y in x..=half {
            let low = Scalar::assume32(Cmp::Ge, &Scalar::UNKNOWN, &Scalar::constant(x));
            let low = low.and_then(|(low, _)| Scalar::assume32(Cmp::Le, &low, &Scalar::constant(y)));
            low.into_iter().for_each(|(low, _)| add(low));
        }
    }
    assert!(seen.iter().all(|case| !case.members.is_empty()), "a description of nothing");
    seen
}

#[test]
fn every_operation_holds_for_every_operand_of_a_four_bit_machine() {
    let every = every::<4>();
    let one: u64 = every.iter().map(check_one).sum();
    let two: u64 = every.iter().flat_map(|a| every.iter().map(move |b| check_two(a, b))).sum();
    let tried = two * (2 * OPERATIONS.len() + 2 * COMPARISONS.len()) as u64;
    println!("{} descriptions, {one} numbers, {two} pairs, {tried} results", every.len());
    assert!(every.len() > 200 && two > 100_000);
}

#[test]
fn every_operation_holds_at_the_edges_of_an_eight_bit_machine() {
    const EDGES: [u64; 12] = [0, 1, 7, 8, 15, 16, 17, 0x7f, 0x80, 0x8f, 0xf0, 0xff];
    let mut cases: Vec<Case<8>> = Vec::new();
    for (index, x) in EDGES.iter().enumerate() {
        for y in EDGES.iter().skip(index) {
            let (unsigned, mask) = (Scalar::between(*x, *y), x ^ y);
            let bits = Num { bits: Tnum { value: x & !mask, mask }, range: Range::unknown(8) };
            let (p, q) = (sign_extend(*x, 8), sign_extend(*y, 8));
            let signed = Scalar::signed_between(p.min(q), p.max(q));
            for scalar in [unsigned, signed, Scalar::from_full(bits)] {
                let mut case = Case::all(scalar);
                // Both ends, and a few between.
                let step = case.members.len() / 4 + 1;
                let last = case.members.len().saturating_sub(1);
                let mut at = 0;
                case.members.retain(|_| {
                    at += 1;
                    (at - 1) % step == 0 || at - 1 == last
                });
                cases.push(case);
            }
        }
    }
    let one: u64 = cases.iter().map(check_one).sum();
    let two: u64 = cases.iter().flat_map(|a| cases.iter().map(move |b| check_two(a, b))).sum();
    println!("{} descriptions, {one} numbers, {two} pairs", cases.len());
    assert!(two > 100_000);
}

#[test]
fn every_number_of_an_eight_bit_machine_is_swapped_and_extended() {
    let mut cases = Vec::new();
    for x in 0..=0xff_u64 {
        for y in 0..=0xff_u64 {
            if x & y == 0 {
                let bits = Tnum { value: x, mask: y };
                cases.push(Case::all(Scalar::<8>::from_full(Num { bits, range: Range::unknown(8) })));
            }
            if x <= y {
                cases.push(Case::all(Scalar::between(x, y)));
            }
        }
    }
    // Bytes of this machine are bits.
    let swapped: u64 =
        cases.iter().map(|case| check_swap(case, |x| u64::from((x as u8).reverse_bits()))).sum();
    let one: u64 = cases.iter().map(check_one).sum();
    println!("{} descriptions, {one} numbers, {swapped} swapped", cases.len());
    assert!(cases.len() > 39_000 && swapped > 3_000_000);
}

/// Numbers near the places where widths and signs change.
fn number() -> impl Strategy<Value = u64> {
    const EDGES: [u64; 12] =
        [0, 31, 32, 63, 64, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 40, 1 << 63, u64::MAX];
    prop_oneof![
        (prop::sample::select(&EDGES[..]), -3..4i64).prop_map(|(edge, by)| edge.wrapping_add(by as u64)),
        any::<u64>(),
        any::<i32>().prop_map(|number| i64::from(number) as u64),
        0..300u64,
    ]
}

/// A number, and a description that it fits: bounds and known bits laid around it, in both widths.
fn case() -> impl Strategy<Value = Case<64>> {
    let around = prop::collection::vec((0..6u8, number(), number()), 0..5);
    (number(), number(), around).prop_map(|(value, other, around)| {
        let mut scalar = Scalar::UNKNOWN;
        for (kind, x, y) in around {
            let told = match kind {
                0 => Some(Scalar::between(x.min(value), y.max(value))),
                1 => {
                    let signed = value as i64;
                    Some(Scalar::signed_between(signed.min(x as i64), signed.max(y as i64)))
                }
                2 => Some(Scalar::from_full(Num {
                    bits: Tnum { value: value & !x, mask: x },
                    range: Range::unknown(64),
                })),
                3 => Scalar::assume32(Cmp::Ge, &scalar, &Scalar::constant(x.min(value & 0xffff_ffff)))
                    .map(|(told, _)| told),
                4 => Scalar::assume32(
                    Cmp::SLe,
                    &scalar,
                    &Scalar::constant((value as i32).max(y as i32) as u64),
                )
                .map(|(told, _)| told),
                _ => Some(Scalar::constant(value).hull(&Scalar::constant(x))),
            };
            // A bound that the number does not fit is not one.
            let told = told.filter(|told| told.contains(value));
            scalar = told.and_then(|told| scalar.intersect(&told)).unwrap_or(scalar);
        }
        let members =
            [value, other, scalar.umin(), scalar.umax(), scalar.smin() as u64, scalar.smax() as u64];
        let members = members.into_iter().filter(|member| scalar.contains(*member)).collect();
        Case { scalar, members }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn every_operation_holds_for_numbers_of_64_bits(a in case(), b in case()) {
        prop_assert!(!a.members.is_empty() && !b.members.is_empty());
        check_one(&a);
        check_swap(&a, u64::swap_bytes);
        check_two(&a, &b);
    }
}

#[test]
fn constants_stay_constants() {
    for (x, y) in [(3_u64, 5_u64), (u64::MAX, 1), (1 << 63, 1 << 31), (0, 64), (0xffff_ffff, 33)] {
        let (a, b) = (Scalar::<64>::constant(x), Scalar::<64>::constant(y));
        for (op, signed) in OPERATIONS {
            let full = Scalar::alu(op, signed, &a, &b);
            assert_eq!(full.value(), Some(compute(op, signed, x, y, 64)), "{x:#x} {op:#x} {y:#x}");
            let low = Scalar::alu32(op, signed, &a, &b);
            assert_eq!(low.value(), Some(compute(op, signed, x, y, 32)), "{x:#x} {op:#x} {y:#x} in 32 bits");
        }
    }
}
