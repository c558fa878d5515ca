//! Random edits of random packets, alone and in lists, held against what they do to their bytes.

use std::format;
use std::vec;
use std::vec::Vec;

use fwps_sim::{Checksum, Config, Packet, SendOutcome, Sent};
use tidegate_abi::control::OnError;
use tidegate_abi::{Hook, Verdict, helper};

use super::rewrites::{Dice, Trouble};
use super::send::{raw_header, summed};
use super::{Bench, DATAGRAMS, ICMP_ERRORS, SENDS, asm, ends};

/// Lists that share a machine and a program.
pub(crate) const LISTS: u64 = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// An edit: offset in what is shown, bytes removed, new ones.
type Edit = (usize, usize, Vec<u8>);

/// What the program of a machine does.
#[derive(Debug)]
enum Program {
    /// Edits, and gives the verdict.
    Edits(Vec<Edit>, Verdict),
    /// Edits a clone, which goes in the place of the packet.
    Clone(Edit),
    /// Blocks what has an `n` behind its first eight bytes, and replaces the ninth of all others.
    DropN(Vec<u8>),
}

impl Program {
    /// Any, with edits from `base` on. None moves a part of a checksum, which the test does not know, to somewhere else.
    fn random(dice: &mut Dice, base: usize) -> Self {
        let new = |dice: &mut Dice| (0..dice.below(24)).map(|_| dice.next() as u8).collect::<Vec<_>>();
        let edit = |dice: &mut Dice, from: usize| {
            let (at, new) = (from + dice.below(24), new(dice));
            let remove = match dice.below(3) {
                0 => new.len(),
                1 => dice.below(24),
                _ => 0,
            };
            (at, if new.is_empty() { remove.max(1) } else { remove }, new)
        };
        match dice.below(6) {
            0 => {
                // A clone is edited with something.
                let (at, remove, mut new) = edit(dice, base + 8);
                new.push(b'+');
                Self::Clone((at, remove, new))
            }
            1 if base == 0 => Self::DropN(vec![dice.next() as u8; 1 + dice.below(9)]),
            _ => {
                let (mut edits, mut from) = (Vec::new(), base + 8);
                let of_header = match dice.below(6) {
                    0 => Some((base, 2, vec![5; 2])),
                    1 => Some((base, 8 + dice.below(5), new(dice))),
                    _ => None,
                };
                if let Some((at, remove, new)) = of_header {
                    from = at + remove.max(8);
                    edits.push((at, remove, new));
                }
                for _ in 0..1 + dice.below(4) {
                    let next = edit(dice, from);
                    from = next.0 + next.1;
                    edits.push(next);
                }
                Self::Edits(edits, [Verdict::Permit, Verdict::Continue][dice.below(2)])
            }
        }
    }

    fn code(&self) -> Vec<u8> {
        let all = |edits: &[Edit], verdict| {
            let edits: Vec<_> =
                edits.iter().map(|(at, remove, new)| (*at as i32, *remove as i32, &**new)).collect();
            asm::edits(&edits, verdict)
        };
        match self {
            Self::Edits(edits, verdict) => all(edits, *verdict),
            Self::Clone((at, remove, new)) => asm::clone(
                helper::CLONE_NET_BUFFER_LIST,
                helper::INJECT_TRANSPORT_SEND,
                *at as i32,
                *remove as i32,
                new,
                Verdict::Block,
            ),
            Self::DropN(new) => asm::drop_if_found(b'n', Some(new)),
        }
    }

    /// What it makes of a packet; `None` when it blocks it. Whether it replaces it, and new bytes.
    fn on_bytes(&self, protocol: u8, shown: &[u8]) -> Option<(Vec<u8>, bool, usize)> {
        let (edits, clones): (&[Edit], _) = match self {
            Self::Edits(edits, _) => (edits, false),
            Self::Clone(edit) => (core::slice::from_ref(edit), true),
            Self::DropN(_) if shown[8..].contains(&b'n') => return None,
            Self::DropN(new) => (&[(8, 1, new.clone())], false),
        };
        let fits = |(at, remove, new): &&Edit| {
            at + remove <= shown.len() && (protocol != TCP || *remove == new.len())
        };
        let made: Vec<_> = edits.iter().filter(fits).collect();
        let mut out = shown.to_vec();
        for (at, remove, new) in made.iter().rev() {
            out.splice(*at..at + remove, new.iter().copied());
        }
        let new = made.iter().map(|(.., new)| new.len()).sum();
        Some((out, clones || !made.is_empty(), new))
    }
}

/// What is to become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Replace(Vec<u8>),
}

/// What a machine is like.
struct Machine {
    bench: Bench,
    hook: Hook,
    program: Program,
    on_error: OnError,
    snapshot: bool,
    /// All of it is sent by raw sockets.
    raw: bool,
}

impl Machine {
    fn random(dice: &mut Dice) -> Self {
        let hooks = [SENDS, SENDS, DATAGRAMS, ICMP_ERRORS][dice.below(4)];
        let hook = hooks[dice.below(2)];
        let on_error = if dice.below(2) == 0 { OnError::Block } else { OnError::Permit };
        let raw = !ICMP_ERRORS.contains(&hook) && dice.below(5) == 0;
        let snapshot = dice.below(4) == 0;
        // Behind the layer that shows a packet first, so that what is sent is known only of what was judged there.
        let sender_changes = snapshot && on_error == OnError::Block && !SENDS.contains(&hook);
        let config = Config { trace_length: 64, sender_changes, ..Config::random(dice.next()) };
        let bench = Bench::new(config);
        let mut machine =
            Self { bench, hook, program: Program::Clone((0, 0, vec![])), on_error, snapshot, raw };
        machine.program = Program::random(dice, machine.base());
        let code = machine.program.code();
        if snapshot {
            machine.bench.snapshot(hook, &code, on_error);
        } else {
            machine.bench.link(hook, &code, on_error);
        }
        machine
    }

    /// Bytes of the IP header that programs are shown.
    fn base(&self) -> usize {
        if self.raw && SENDS.contains(&self.hook) { self.header(0).len() } else { 0 }
    }

    /// The IP header of a raw send.
    fn header(&self, len: usize) -> Vec<u8> {
        if self.raw { raw_header(self.hook, len) } else { Vec::new() }
    }

    /// A list that is shown at the hook.
    fn list(&self, dice: &mut Dice) -> Packet {
        let (mut local, mut remote) = ends(self.hook);
        let icmp = if local.is_ipv4() { 1 } else { 58 };
        let protocol = match dice.below(4) {
            _ if self.raw => UDP,
            _ if ICMP_ERRORS.contains(&self.hook) => icmp,
            0 => icmp,
            1 if SENDS.contains(&self.hook) && !matches!(self.program, Program::DropN(_)) => TCP,
            _ => UDP,
        };
        let count = if self.raw || dice.below(2) == 0 { 1 } else { 1 + dice.below(4) };
        let mut one = || {
            let payload: Vec<u8> = (0..dice.below(90)).map(|_| dice.next() as u8).collect();
            let header = match protocol {
                TCP => {
                    let words = 5 + dice.below(11);
                    let mut header = vec![0xa5; 4 * words];
                    header[12] = (words as u8) << 4;
                    header
                }
                UDP => [&[1, 2, 3, 4][..], &(8 + payload.len() as u16).to_be_bytes(), &[0, 0]].concat(),
                _ => vec![8, 0, 0, 0, 0, 1, 0, 1],
            };
            [header, payload].concat()
        };
        let buffers: Vec<_> = (0..count).map(|_| one()).collect();
        if ICMP_ERRORS.contains(&self.hook) {
            local.set_port(3);
            remote.set_port(1);
        }
        let checksum = match dice.below(4) {
            0 if protocol == UDP && local.is_ipv4() => Checksum::Zero,
            1 | 2 if protocol != icmp => Checksum::Offloaded,
            _ => Checksum::Full,
        };
        let header = self.header(buffers[0].len());
        Packet {
            checksum,
            control_data: (dice.below(3) == 0).then(|| vec![7; 24]),
            raw_ip_header: self.raw.then_some(header),
            icmp_error: ICMP_ERRORS.contains(&self.hook),
            ..Packet::transport(protocol, local, remote, buffers)
        }
    }

    /// What is to become of each packet of a list, and the most that may be copied for it.
    fn fates(&self, list: &Packet) -> (Vec<Fate>, usize) {
        let (mut fates, mut may_copy) = (Vec::new(), 0);
        let least = if list.protocol == TCP { 20 } else { 8 };
        for buffer in &list.buffers {
            let header = self.header(buffer.len());
            let inside = &header[..self.base()];
            let shown = [inside, buffer].concat();
            let headers = if list.protocol == TCP { 4 * usize::from(buffer[12] >> 4) } else { 8 };
            let control = list.control_data.as_ref().map_or(0, Vec::len);
            let (passes, new) = match self.program.on_bytes(list.protocol, &shown) {
                None => (Fate::Drop, 0),
                Some((_, false, _)) => (Fate::Pass, 0),
                Some((out, true, new)) if out.len() - inside.len() >= least => {
                    (Fate::Replace(out[inside.len()..].to_vec()), new)
                }
                Some(_) if self.on_error == OnError::Permit => (Fate::Pass, 0),
                Some(_) => (Fate::Drop, 0),
            };
            fates.push(match passes {
                Fate::Pass if self.snapshot => Fate::Replace(buffer.clone()),
                fate => fate,
            });
            // The edited bytes and one header, and what is told beside it.
            let kept = if self.snapshot { buffer.len() } else { headers };
            may_copy += header.len() + kept + new + control;
        }
        (fates, may_copy)
    }

    /// Whether a packet is on the wire as these bytes, but for its length and its checksum, which are to be right.
    fn is(&self, sent: &Sent, bytes: &[u8]) -> bool {
        let computed = match sent.protocol {
            UDP => 4..8,
            TCP => 16..18,
            _ => 2..4,
        };
        let (mut left, mut right) = (sent.bytes.clone(), bytes.to_vec());
        for bytes in [&mut left, &mut right] {
            bytes[computed.clone()].fill(0);
        }
        let header = self.header(bytes.len());
        let header = if sent.injected { summed(header) } else { header };
        left == right && sent.checksum_ok && sent.header == header
    }

    fn send(&self, dice: &mut Dice) {
        let list = self.list(dice);
        let (fates, may_copy) = self.fates(&list);
        let trouble = Trouble::random(dice);
        let (failed, copied) = (self.bench.sim.failures(), self.bench.counts().copied);
        trouble.begin(&self.bench);
        let (outcome, sent) = self.bench.send(&list);
        let hurt = trouble.end(&self.bench) || self.bench.sim.failures() > failed;
        let says = || {
            let Self { hook, program, on_error, snapshot, raw, .. } = self;
            format!(
                "{trouble:?}, {hook:?}, {on_error:?}, snapshot {snapshot}, raw {raw}: {outcome:?}, {list:#?} came out as {sent:#?}, \
                 not {fates:?}: {program:?}"
            )
        };
        let injected = sent.iter().all(|sent| sent.injected == (outcome != SendOutcome::Permitted));
        assert!(injected && (outcome != SendOutcome::Blocked || sent.is_empty()), "{}", says());
        if hurt {
            // Each goes out as it is to be, of a link that fails open as it was, or not at all.
            let mut sent = sent.iter().peekable();
            for (fate, buffer) in fates.iter().zip(&list.buffers) {
                let as_it_was = *fate == Fate::Pass || self.on_error == OnError::Permit;
                sent.next_if(|sent| {
                    (as_it_was && self.is(sent, buffer))
                        || matches!(fate, Fate::Replace(bytes) if self.is(sent, bytes))
                });
            }
            assert!(sent.next().is_none(), "{}", says());
            return;
        }
        let expected = if fates.iter().all(|fate| *fate == Fate::Pass) {
            SendOutcome::Permitted
        } else if fates.iter().all(|fate| *fate == Fate::Drop) {
            SendOutcome::Blocked
        } else {
            SendOutcome::Absorbed
        };
        assert_eq!(outcome, expected, "{}", says());
        let passing = fates.iter().zip(&list.buffers).filter_map(|(fate, buffer)| match fate {
            Fate::Pass => Some(buffer),
            Fate::Drop => None,
            Fate::Replace(bytes) => Some(bytes),
        });
        let passing: Vec<_> = passing.collect();
        let right = passing.iter().zip(&sent).all(|(bytes, sent)| self.is(sent, bytes));
        assert!(right && sent.len() == passing.len(), "{}", says());
        let copied = self.bench.counts().copied - copied;
        assert!(copied <= may_copy as u64, "{copied} bytes copied, {may_copy} at most: {}", says());
    }
}

/// Sends [`LISTS`] lists past one random program on one random machine.
///
/// # Panics
/// When anything comes out that should not, more is copied than is edited, or anything is left behind.
pub(crate) fn machine(seed: u64) {
    let mut dice = Dice::new(seed);
    let machine = Machine::random(&mut dice);
    for _ in 0..LISTS {
        machine.send(&mut dice);
    }
    machine.bench.finish();
}

#[test]
fn edited_packets_come_out_as_on_their_bytes() {
    super::rewrites::machines(machine, 0, 4000);
}
