//! The layers of what is sent (outbound transport, datagram data, ICMP errors): every packet of a list is judged on its own.
//!
//! WFP has one answer for a list. When all of its packets pass unchanged the list is permitted, when none passes it is
//! blocked; otherwise it is blocked and absorbed, and the packets that pass are injected one by one, edited or as they are.
//!
//! An injected packet is its headers and the new bytes in new memory, and for kept ranges the original's own pages behind
//! partial MDLs, under a reference until the completion. Its checksum covers every byte, so the shared ones are read, once. A
//! sender that changes its buffer behind that sends what its receiver refuses; with a link that asks for a snapshot all of the
//! packet is the copy that was judged.
//!
//! UDP and ICMP are injected from classify, TCP by the worker. What we injected ourselves is shown again at every layer, and
//! permitted unseen: so a packet that is replaced at a datagram-data or ICMP error layer is not asked about at the outbound
//! transport layer.
//!
//! What a raw socket sends has an IP header of its own, in front of the packet or, at the datagram-data layers, apart; its
//! length and checksum are made right too.
//!
//! Not edited, only permitted or blocked: what the stack itself sends (no endpoint), protocols whose checksum we don't know,
//! lists that hardware cuts, and everything when a callout above has taken the right to.

use alloc::boxed::Box;
use alloc::vec::Vec;

use fwps_sys::{ADDRESS_FAMILY, FWPS_PACKET_INJECTION_STATE, IPPROTO};
use tidegate_abi::context::SEND_REINJECTED;
use tidegate_abi::control::OnError;
use tidegate_abi::limits::MAX_WINDOW;
use tidegate_abi::{SendContext, Verdict};
use tidegate_runtime::{Calls, Comparison, Link, Trial};
use tidegate_vm::{Lent, Shared, Stack};

use crate::checksum::{self, Ends, Sum};
use crate::edit::{Changes, Part, Plan};
use crate::engine::Engine;
use crate::envelope::{self, Envelope};
use crate::host::{About, Editable, PacketHost};
use crate::injection::{Body, Failure, SendInjection, SendList};
use crate::layer::Incoming;
use crate::memory;
use crate::outcome::SendOutcome;
use crate::packet::{Packets, Unreadable, View};
use crate::scratch::Desk;
use crate::watch::{self, Came, Pending};

/// Bytes of ancillary data that a send may have to be edited; far more than any option takes.
const MAX_CONTROL: usize = 65_536;

/// Bytes of the longest IP header that a raw socket sends and that is understood.
const MAX_HEADER: usize = 60;

const UNCHANGED: &Plan = &Plan::new();

/// One call of classify at a transport layer.
struct Send<'c> {
    engine: Lent<'c, Engine>,
    /// The one that it is called on.
    processor: u32,
    incoming: &'c Incoming<'c>,
    protocol: IPPROTO,
    editable: Editable,
    /// Another driver injected it.
    foreign: bool,
    /// What is judged is what is sent.
    snapshot: bool,
    /// And a link that wants it so fails closed.
    sealed: bool,
    context: SendContext,
}

/// What becomes of one packet.
enum Fate<'l> {
    Pass,
    Drop,
    /// It goes out in another form, by the will of a link.
    Replace(Box<SendInjection>, Else<'l>),
}

/// What counts when a packet can't be replaced.
struct Else<'l> {
    on_error: OnError,
    /// The links that were not asked yet.
    rest: &'l [Shared<Link>],
}

/// Runs the chain on a list of packets and carries its decisions out. DISPATCH_LEVEL.
pub(crate) fn classify(
    engine: Lent<'_, Engine>,
    incoming: &Incoming<'_>,
    packets: &Packets<'_>,
    may_write: bool,
    processor: u32,
) -> SendOutcome {
    if !incoming.is_outbound() {
        return SendOutcome::Permit;
    }
    let state = packets.injection_state(engine.handles.transport);
    if matches!(
        state,
        FWPS_PACKET_INJECTION_STATE::INJECTED_BY_SELF
            | FWPS_PACKET_INJECTION_STATE::PREVIOUSLY_INJECTED_BY_SELF
    ) {
        return SendOutcome::Permit;
    }
    let foreign = state == FWPS_PACKET_INJECTION_STATE::INJECTED_BY_OTHER;
    let chain = engine.runtime.chain(incoming.layer.hook);
    let links = chain.links();
    if links.is_empty() {
        return SendOutcome::Permit;
    }
    let mut context = incoming.send_context();
    let Some(mut desk) = engine.scratch.take(processor) else {
        engine.counters.no_desk.add();
        return if unseen(links, &context) { SendOutcome::Block } else { SendOutcome::Permit };
    };
    if foreign {
        context.flags |= SEND_REINJECTED;
    }
    let protocol = incoming.protocol().unwrap_or_default();
    let editable = if !may_write
        || incoming.endpoint().is_none()
        || incoming.control_data().len() > MAX_CONTROL
        || !checksum::knows(protocol)
        || packets.is_segmented()
        || (foreign && !engine.hops.left(flow_of(&context), &engine.platform))
    {
        Editable::No
    } else if protocol == IPPROTO::TCP {
        Editable::SameLength
    } else {
        Editable::Yes
    };
    let (snapshot, sealed) = if chain.is_snapshot() { copied(links, &context) } else { (false, false) };
    let send = Send { engine, processor, incoming, protocol, editable, foreign, snapshot, sealed, context };
    let mut views = packets.views();
    match (views.next(), views.next()) {
        (None, _) => SendOutcome::Permit,
        (Some(packet), None) if protocol != IPPROTO::TCP => send.alone(links, &packet, &mut desk),
        _ => send.list(links, packets, &mut desk),
    }
}

/// A number that the packets of one flow share.
fn flow_of(context: &SendContext) -> u64 {
    let SendContext { local_addr, remote_addr, local_port, remote_port, protocol, .. } = context;
    let ports = [*local_port, *remote_port].map(u16::to_ne_bytes);
    let bytes =
        local_addr.iter().chain(remote_addr).chain(ports.as_flattened()).copied().chain([*protocol as u8]);
    // FNV-1a.
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Whether a link that is to see the packet wants what is judged to be what is sent, and whether it must be.
#[cold]
#[inline(never)]
fn copied(links: &[Shared<Link>], context: &SendContext) -> (bool, bool) {
    let mut copying = links.iter().filter(|link| link.is_snapshot() && !link.is_blind(0, || context.into()));
    (copying.clone().next().is_some(), copying.any(|link| link.on_error() == OnError::Block))
}

/// Counts an error of every link that is to see the packet, since it can be shown to none. True when it must not pass.
fn unseen(links: &[Shared<Link>], context: &SendContext) -> bool {
    let mut blocks = false;
    for link in links.iter().filter(|link| !link.is_blind(0, || context.into())) {
        link.count_error();
        blocks |= link.on_error() == OnError::Block;
    }
    blocks
}

/// What a run wants, before anything of it is done.
struct Wanted<'w> {
    /// `None`: it failed.
    verdict: Option<Verdict>,
    injects: bool,
    changes: &'w Changes,
    envelope: &'w Envelope,
}

impl Wanted<'_> {
    /// The verdict, the plan of the packet that goes out, and whether one does; `None`: it failed, or can't be carried out.
    fn what(&self) -> Option<(Verdict, &Plan, bool)> {
        match self.verdict? {
            Verdict::Block if self.injects => Some((Verdict::Block, &self.changes.clone, true)),
            _ if self.injects => None,
            Verdict::Block => Some((Verdict::Block, UNCHANGED, false)),
            verdict => Some((verdict, &self.changes.edits, true)),
        }
    }

    /// How what a shadow's run wants and what the one of the link's own program wanted compare.
    // Not in the frame that a run stands on: the stack is short.
    #[inline(never)]
    fn compare(&self, own: &Self, window: &[u8]) -> Comparison {
        let Some((verdict, plan, goes)) = self.what() else { return Comparison::Error };
        let len = window.len();
        match own.what() {
            Some((same, ..)) if verdict != same => Comparison::Verdict,
            Some((_, other, went)) => {
                let same = goes == went
                    && (!goes || self.envelope == own.envelope)
                    && plan.output(window, len).eq(other.output(window, len));
                if same { Comparison::Agreed } else { Comparison::Bytes }
            }
            None => Comparison::Verdict,
        }
    }
}

impl Send<'_> {
    /// One packet that may be injected from here: if it can't be, its original is still there.
    fn alone(&self, links: &[Shared<Link>], packet: &View<'_>, desk: &mut Desk) -> SendOutcome {
        let mut links = links;
        loop {
            let (injection, otherwise) = match self.judge(links, packet, desk) {
                Fate::Pass => return SendOutcome::Permit,
                Fate::Drop => return SendOutcome::Block,
                Fate::Replace(injection, otherwise) => (injection, otherwise),
            };
            let is_copy = injection.by.is_none();
            if injection.send() {
                return SendOutcome::Absorb;
            }
            if otherwise.on_error == OnError::Block {
                return SendOutcome::Block;
            }
            if is_copy {
                // Nobody is left to be asked, and the original is there.
                return SendOutcome::Permit;
            }
            links = otherwise.rest;
        }
    }

    /// Any list. Nothing is injected before every packet has been judged.
    fn list(&self, links: &[Shared<Link>], packets: &Packets<'_>, desk: &mut Desk) -> SendOutcome {
        let mut out = SendList::new();
        // Packets before the first one that does not simply pass; with it they become copies.
        let mut passing = Some(0);
        for (index, packet) in packets.views().enumerate() {
            let fate = self.judge(links, &packet, desk);
            if let (Fate::Pass, Some(count)) = (&fate, &mut passing) {
                *count += 1;
                continue;
            }
            if self.editable == Editable::No {
                // Nothing may be injected in the place of the others.
                return SendOutcome::Block;
            }
            let before = passing.take().map_or(0, |_| index);
            let copies = packets.views().take(before).try_for_each(|packet| self.copy(&packet, &mut out));
            let added = copies.and_then(|()| match fate {
                Fate::Pass => self.copy(&packet, &mut out),
                Fate::Drop => Ok(()),
                Fate::Replace(injection, _) => {
                    out.push(injection);
                    Ok(())
                }
            });
            if added.is_err() {
                // Part of the list could be sent; all or nothing is easier to understand.
                self.engine.counters.lost.add();
                return SendOutcome::Block;
            }
        }
        match passing {
            Some(_) => SendOutcome::Permit,
            None if out.is_empty() => SendOutcome::Block,
            None => self.send(out),
        }
    }

    /// Sends copies in the place of their list.
    fn send(&self, mut packets: SendList) -> SendOutcome {
        if self.protocol == IPPROTO::TCP {
            self.engine.worker.send(self.engine, packets);
            return SendOutcome::Absorb;
        }
        let mut outcome = SendOutcome::Block;
        while let Some(packet) = packets.pop() {
            if packet.send() {
                outcome = SendOutcome::Absorb;
            } else {
                self.engine.counters.lost.add();
            }
        }
        outcome
    }

    /// Asks the links about one packet.
    fn judge<'l>(&self, links: &'l [Shared<Link>], packet: &View<'_>, desk: &mut Desk) -> Fate<'l> {
        let Desk { window, stack, changes, pending } = desk;
        let window = if packet.len() > MAX_WINDOW {
            self.engine.counters.oversized.add();
            Err(Unreadable)
        } else {
            let whole = packet.len();
            let window =
                if self.snapshot { packet.copied(whole, window) } else { packet.window(whole, window) };
            if window.is_err() {
                self.engine.counters.unreadable.add();
            }
            window
        };
        let Ok(window) = window else {
            return if unseen(links, &self.context) { Fate::Drop } else { Fate::Pass };
        };
        let mut rest = links;
        while let Some((link, behind)) = rest.split_first() {
            rest = behind;
            let (link, shadow) = match link.is_special() {
                false => (link, None),
                true if link.is_blind(0, || (&self.context).into()) => continue,
                true => self.turn(link),
            };
            let mut context = self.context;
            let mut envelope = self.envelope();
            let about = About::Packet {
                window,
                flow: context.flow_id,
                editable: self.editable,
                envelope: (!self.is_raw()).then_some(&mut envelope),
            };
            let mut host = PacketHost::new(Calls::new(link), about, changes);
            let verdict = if link.is_special() {
                self.run(&mut host, link, stack, &mut context, pending)
            } else {
                host.run(link, stack, &mut context, window, self.processor).ok()
            };
            let injects = host.injects();
            drop(host);
            if let Some(trial) = shadow {
                let wanted = Wanted { verdict, injects, changes, envelope: &envelope };
                self.shadow(trial, window, stack, &wanted);
            }
            let built = match verdict {
                None => {
                    link.count_fault();
                    Err(())
                }
                Some(verdict) => {
                    let plan = match verdict {
                        Verdict::Block if injects => Ok(&changes.clone),
                        _ if injects => Err(Failure::Unfit),
                        Verdict::Continue | Verdict::Permit
                            if !(changes.edits.is_empty() && envelope.is_empty()) =>
                        {
                            Ok(&changes.edits)
                        }
                        Verdict::Permit => return self.pass(packet, window, links),
                        Verdict::Block => return Fate::Drop,
                        _ => continue,
                    };
                    let by = Some((Shared::clone(link), verdict));
                    plan.and_then(|plan| self.build(packet, window, plan, &envelope, by))
                        .map_err(|_| link.count_failed(verdict))
                }
            };
            if pending.is_some() {
                self.tell(link, built.is_ok(), pending);
            }
            match built {
                Ok(injection) => {
                    return Fate::Replace(injection, Else { on_error: link.on_error(), rest });
                }
                Err(()) if link.on_error() == OnError::Permit => {}
                Err(()) => return Fate::Drop,
            }
        }
        self.pass(packet, window, links)
    }

    /// What runs for a link in which something may be tried: its own program or another, and what runs beside that.
    #[cold]
    #[inline(never)]
    fn turn<'l>(&self, link: &'l Shared<Link>) -> (&'l Shared<Link>, Option<&'l Trial>) {
        match link.trial() {
            Some(trial) if trial.is_shadow() => (link, Some(trial)),
            Some(trial) if trial.stands_in(flow_of(&self.context), || self.engine.get().runtime.moment()) => {
                (trial.candidate(), None)
            }
            _ => (link, None),
        }
    }

    /// Runs a link that is special: whose run may be timed, or which somebody may watch. Who does is told of it, here or, when a
    /// packet is to be built, by [`tell`](Self::tell).
    #[cold]
    #[inline(never)]
    fn run<'l>(
        &self,
        host: &mut PacketHost<'l>,
        link: &'l Link,
        stack: &mut Stack,
        context: &mut SendContext,
        pending: &mut Option<Pending>,
    ) -> Option<Verdict> {
        let (runtime, window) = (&self.engine.get().runtime, host.window());
        let Some(mut sight) = watch::sight(runtime, link, context.flow_id) else {
            let began = link.begin_run();
            let verdict = host.run(link, stack, context, window, self.processor).ok();
            link.end_run(began, verdict);
            return verdict;
        };
        let verdict = host.run_watched(link, stack, context, window, self.processor, &mut sight);
        let (injects, changes, len) = (host.injects(), host.changes(), window.len());
        let passed = match verdict {
            Some(Verdict::Block) if injects => Some(changes.clone.output_len(len)),
            Some(Verdict::Block) => Some(0),
            Some(_) if !injects => Some(changes.edits.output_len(len)),
            _ => None,
        };
        let (unfit, passed) = (passed.is_none(), passed.unwrap_or(0));
        let came = Came { unfit, shown: len, decided: len, passed, sent: 0 };
        *pending = Some(Pending { came, sight });
        if unfit || !(injects || verdict != Some(Verdict::Block) && host.edits()) {
            self.tell(link, true, pending);
        }
        verdict
    }

    /// Tells of a run that somebody watches: all is known of it, or whether its packet could be built.
    #[cold]
    #[inline(never)]
    fn tell(&self, link: &Link, built: bool, pending: &mut Option<Pending>) {
        let Some(Pending { mut came, mut sight }) = pending.take() else { return };
        if !built {
            (came.unfit, came.passed) = (true, 0);
        }
        watch::tell_packet(&self.engine.get().runtime, link, &self.context, &came, &mut sight);
    }

    /// Runs a program that is tried beside a link's own, which wanted `own`, and compares.
    #[cold]
    #[inline(never)]
    fn shadow(&self, trial: &Trial, window: &[u8], stack: &mut Stack, own: &Wanted<'_>) {
        let candidate = trial.candidate();
        // What a run is given is not in the frame that it stands on: the stack is short.
        let (Ok(mut changes), Ok(mut context)) = (Changes::boxed(), memory::boxed_copy(&self.context)) else {
            return trial.count_missed();
        };
        let mut envelope = self.envelope();
        let about = About::Packet {
            window,
            flow: context.flow_id,
            editable: self.editable,
            envelope: (!self.is_raw()).then_some(&mut envelope),
        };
        let mut host = PacketHost::new(Calls::new(candidate), about, &mut changes);
        let verdict = host.run(candidate, stack, &mut *context, window, self.processor).ok();
        let injects = host.injects();
        drop(host);
        let wanted = Wanted { verdict, injects, changes: &changes, envelope: &envelope };
        trial.count(wanted.compare(own, window));
    }

    /// A packet passes: the one that was judged.
    fn pass<'l>(&self, packet: &View<'_>, window: &[u8], links: &[Shared<Link>]) -> Fate<'l> {
        // What the stack sends by itself lies in its own memory.
        if !self.snapshot || self.incoming.endpoint().is_none() {
            return Fate::Pass;
        }
        let sealed = match self.editable {
            Editable::No => Err(Failure::Unfit),
            _ => self.build(packet, window, UNCHANGED, &self.envelope(), None),
        };
        match sealed {
            Ok(copy) => {
                let on_error = if self.sealed { OnError::Block } else { OnError::Permit };
                Fate::Replace(copy, Else { on_error, rest: &[] })
            }
            Err(_) if self.sealed => {
                let copying = links.iter().filter(|link| link.is_snapshot());
                let copying = copying.filter(|link| !link.is_blind(0, || (&self.context).into()));
                copying.for_each(|link| link.count_error());
                Fate::Drop
            }
            Err(_) => Fate::Pass,
        }
    }

    /// Adds an unchanged copy of a packet.
    fn copy(&self, packet: &View<'_>, out: &mut SendList) -> Result<(), Failure> {
        out.push(self.build(packet, &[], UNCHANGED, &self.envelope(), None)?);
        Ok(())
    }

    /// Makes what a plan makes of a packet, ready to be injected.
    fn build(
        &self,
        packet: &View<'_>,
        window: &[u8],
        plan: &Plan,
        envelope: &Envelope,
        by: Option<(Shared<Link>, Verdict)>,
    ) -> Result<Box<SendInjection>, Failure> {
        let endpoint = self.incoming.endpoint().ok_or(Failure::Unfit)?;
        if self.foreign && !self.engine.hops.spend(flow_of(&self.context), &self.engine.platform) {
            self.engine.counters.hops.add();
            return Err(Failure::Unfit);
        }
        // A sealed packet is what was judged; any other is what there is now.
        let sealed = (self.snapshot && !window.is_empty()).then_some(window);
        let (mut body, copied, header, header_len) = self.body(packet, sealed, plan, envelope)?;
        body.finish(self.engine.handles.pool)?;

        let (control, control_len) = envelope.control(self.incoming.control_data())?;
        let owner = size_of::<SendInjection>() + (control.capacity() + header.capacity()) * 8;
        self.engine.counters.copied.add_many(copied + control_len as usize + header_len as usize);
        self.engine.counters.allocated.add_many(body.allocated() + owner);
        Ok(memory::boxed(SendInjection {
            engine: self.engine.share(),
            body,
            family: self.incoming.layer.family,
            compartment: self.incoming.compartment_id(),
            endpoint,
            remote: envelope.remote.map_or_else(|| self.incoming.remote_address(), |(address, _)| address),
            scope: self.incoming.remote_scope(),
            control,
            control_len,
            header,
            header_len,
            is_raw: self.incoming.shown_header() != 0,
            by,
            args: SendInjection::NO_ARGS,
            next: core::ptr::null_mut(),
            orphaned: false,
        })?)
    }

    /// What a plan makes of a packet: its headers, and all of it when it is sealed, in new memory, with the new bytes; all else
    /// shared. Gives back the bytes copied, and a copy of a raw socket's header that is apart from it.
    fn body(
        &self,
        packet: &View<'_>,
        sealed: Option<&[u8]>,
        plan: &Plan,
        envelope: &Envelope,
    ) -> Result<(Body, usize, Vec<u64>, u32), Failure> {
        let len = plan.output_len(packet.len());
        let head = if sealed.is_some() { len } else { self.headers(packet)?.min(len) };
        let parts = || plan.parts(packet.len(), head);
        let owned = parts().map(|part| part.owned()).sum();
        let mut bytes = memory::filled(owned, 0)?;
        let (mut free, mut at, mut behind) = (bytes.as_mut_slice(), 0, Sum::default());
        for part in parts() {
            let (to, rest) = free.split_at_mut_checked(part.owned()).ok_or(Failure::Unfit)?;
            free = rest;
            let fits = |from: &&[u8]| from.len() == to.len();
            let in_head = at < head;
            at += part.len();
            match part {
                Part::Shared(range) => {
                    for segment in packet.segments(range) {
                        behind.add(segment?.bytes()?);
                    }
                }
                Part::Copied(range) => match sealed {
                    Some(window) => {
                        to.copy_from_slice(window.get(range).filter(fits).ok_or(Failure::Unfit)?);
                    }
                    None => packet.copy(range, to)?,
                },
                Part::New(range) => {
                    to.copy_from_slice(plan.new_bytes().get(range).filter(fits).ok_or(Failure::Unfit)?);
                    if !in_head {
                        behind.add(to);
                    }
                }
            }
        }
        let first = bytes.get_mut(..head).ok_or(Failure::Unfit)?;
        let (header, header_len) = self.repair(first, behind, len, envelope)?;

        let mut body = Body::new(bytes);
        let mut new = 0..0;
        for part in parts() {
            new.end += part.owned();
            if let Part::Shared(range) = part {
                if !new.is_empty() {
                    body.push_new(new.clone())?;
                    new.start = new.end;
                }
                for segment in packet.segments(range) {
                    body.push_kept(&segment?)?;
                }
            }
        }
        if !new.is_empty() {
            body.push_new(new)?;
        }
        Ok((body, owned, header, header_len))
    }

    /// Bytes of the headers that a packet begins with: a raw socket's IP header and that of its protocol. Those below want them
    /// to lie together.
    fn headers(&self, packet: &View<'_>) -> Result<usize, Failure> {
        let ip = self.incoming.shown_header() as usize;
        let least = checksum::least(self.protocol);
        if self.protocol != IPPROTO::TCP {
            return Ok(ip + least);
        }
        // The upper half of a byte says how many words.
        let mut words = [0];
        packet.copy(ip + 12..ip + 13, &mut words)?;
        let [words] = words;
        let said = 4 * usize::from(words >> 4);
        Ok(ip + if (least..=packet.len().saturating_sub(ip)).contains(&said) { said } else { least })
    }

    /// Whether a raw socket sends it.
    fn is_raw(&self) -> bool {
        self.incoming.shown_header() != 0 || !self.incoming.apart_header().is_empty()
    }

    /// An envelope without changes.
    fn envelope(&self) -> Envelope {
        Envelope::new(self.incoming.layer.family == ADDRESS_FAMILY::INET6, self.protocol)
    }

    /// Makes every length and checksum of a packet of `len` bytes right, and a raw socket's header that is apart from it, which
    /// is given back as a copy. `head` is its beginning with its headers, `behind` the sum of what follows.
    fn repair(
        &self,
        head: &mut [u8],
        behind: Sum,
        len: usize,
        envelope: &Envelope,
    ) -> Result<(Vec<u64>, u32), Failure> {
        let fit = |broken: Result<Ends, checksum::Broken>| broken.map_err(|_| Failure::Unfit);
        let header = self.incoming.shown_header() as usize;
        let (inside, head) = head.split_at_mut_checked(header).ok_or(Failure::Unfit)?;
        let len = len.saturating_sub(header);
        let apart = self.incoming.apart_header();
        let mut copy = [0; MAX_HEADER];
        let copy = copy.get_mut(..apart.len()).ok_or(Failure::Unfit)?;
        copy.iter_mut().zip(apart).for_each(|(to, from)| *to = *from);
        let ends = if !inside.is_empty() {
            fit(checksum::repair_header(inside, len))?
        } else if !copy.is_empty() {
            fit(checksum::repair_header(copy, len))?
        } else if let Some((remote, port)) = envelope.remote {
            if port != 0 {
                checksum::set_udp_port(head, port);
            }
            self.incoming.ends().to(remote)
        } else {
            self.incoming.ends()
        };
        checksum::repair(head, behind, len, self.protocol, &ends).map_err(|_| Failure::Unfit)?;
        let mut words = memory::filled(copy.len().div_ceil(8), 0)?;
        envelope::copy(&mut words, copy);
        Ok((words, copy.len() as u32))
    }
}
