//! The machine shows a policy what the wire has, and the wire what the policy lets through.

use std::time::Duration;

use tidegate_abi::Verdict;
use tidegate_abi::control::OnError;

use super::*;

const PROBES: &[u8] = include_bytes!("../../tests/fixtures/probes.o");

fn machine(program: &str, setup: Setup) -> Result<Machine, Error> {
    let object = Object::parse(PROBES).expect("the fixture is an object");
    Machine::new(&object, &Setup { programs: vec![program.into()], ..setup })
}

fn probe(program: &str) -> Machine {
    machine(program, Setup::default()).expect("a machine")
}

fn contents(map: &str, entries: &str) -> Contents {
    [(map.to_string(), entries.parse().expect("TOML"))].into()
}

fn data(direction: Direction, bytes: &[u8]) -> Step {
    Step::new(direction, Kind::Data { bytes: bytes.into(), push: true })
}

/// Shows the steps on a connection over IPv4, or IPv6, in every weather.
fn over_all(machine: &mut Machine, steps: &[Step], mut check: impl FnMut(&Delivery, Tally)) {
    for seed in 0..40 {
        let mut session = machine.session(Config::random(seed)).expect("a session");
        let ends = if seed % 2 == 0 {
            ("10.0.0.2:40000", "192.0.2.1:443")
        } else {
            ("[fd00::2]:40000", "[2001:db8::1]:443")
        };
        let flow = session.open(ends.0.parse().unwrap(), ends.1.parse().unwrap(), Direction::Outbound);
        for step in steps {
            session.show(flow, step);
        }
        let delivery = session.close(flow);
        let tally = session.tally().expect("counters");
        assert_eq!(session.end(), Vec::<String>::new());
        check(&delivery, tally);
    }
}

#[test]
fn bytes_pass_change_and_vanish_as_the_policy_says() {
    let steps = [
        data(Direction::Outbound, b"axxb"),
        data(Direction::Inbound, b"xcx"),
        data(Direction::Outbound, b"x"),
    ];
    over_all(&mut probe("constant"), &steps, |delivery, tally| {
        assert_eq!((&delivery.sent.bytes[..], &delivery.received.bytes[..]), (&b"axxbx"[..], &b"xcx"[..]));
        assert_eq!((tally.runs, tally.decided()), (3, vec![Verdict::Continue]));
    });
    over_all(&mut probe("without_x"), &steps, |delivery, tally| {
        assert_eq!((&delivery.sent.bytes[..], &delivery.received.bytes[..]), (&b"ab"[..], &b"c"[..]));
        assert_eq!(tally.decided(), [Verdict::Permit, Verdict::Block]);
    });
    over_all(&mut probe("mark"), &steps, |delivery, tally| {
        assert_eq!(delivery.sent.bytes, b"[mark]axxb[mark]x");
        assert_eq!(tally.edited, 2);
    });
    over_all(&mut probe("drop_q"), &[data(Direction::Inbound, b"aqb")], |delivery, tally| {
        assert!(delivery.dropped && delivery.received.bytes.is_empty());
        assert_eq!(tally.decided(), [Verdict::DropConnection]);
    });
}

#[test]
fn ends_of_connections_are_seen_on_the_other_side() {
    let fin = |direction| Step::new(direction, Kind::Fin);
    let steps = [data(Direction::Outbound, b"a"), fin(Direction::Outbound), fin(Direction::Inbound)];
    over_all(&mut probe("constant"), &steps, |delivery, _| {
        assert!(delivery.sent.fin && delivery.received.fin && !delivery.dropped);
    });
    let steps = [Step { kind: Kind::Reset, ..fin(Direction::Inbound) }];
    over_all(&mut probe("constant"), &steps, |delivery, _| {
        assert!(delivery.received.aborted && !delivery.dropped);
    });
}

#[test]
fn a_failed_run_does_what_the_setup_says() {
    let steps = [data(Direction::Outbound, b"a")];
    over_all(&mut probe("fails"), &steps, |delivery, tally| {
        assert!(delivery.dropped);
        assert_eq!((tally.errors, tally.decided()), (1, vec![]));
    });
    let mut open =
        machine("fails", Setup { on_error: OnError::Permit, ..Setup::default() }).expect("a machine");
    over_all(&mut open, &steps, |delivery, tally| {
        assert_eq!((delivery.dropped, &delivery.sent.bytes[..], tally.errors), (false, &b"a"[..], 1));
    });
}

#[test]
fn constants_are_set_before_the_program_is_loaded() {
    let globals = "verdict = 2".parse().expect("TOML");
    let mut blocks = machine("constant", Setup { globals, ..Setup::default() }).expect("a machine");
    over_all(&mut blocks, &[data(Direction::Outbound, b"a")], |delivery, _| {
        assert_eq!(delivery.sent.bytes, b"");
    });
}

#[test]
fn maps_are_filled_read_and_put_back() {
    let maps = contents("bytes", "0 = 1000");
    let mut machine = machine("account", Setup { maps, ..Setup::default() }).expect("a machine");
    let steps = [data(Direction::Outbound, b"abc"), Step { missed: 9, ..data(Direction::Inbound, b"de") }];
    for _ in 0..2 {
        let session = machine.session(Config::default()).expect("a session");
        let flow =
            session.open("10.0.0.2:1".parse().unwrap(), "10.0.0.3:2".parse().unwrap(), Direction::Outbound);
        steps.iter().for_each(|step| session.show(flow, step));
        session.close(flow);
        assert_eq!(session.end(), Vec::<String>::new());
        let expected = contents("bytes", "0 = 1003\n1 = 2");
        assert_eq!(machine.differences(&expected).expect("contents"), []);
        let wrong = machine.differences(&contents("bytes", "0 = 1")).expect("contents");
        assert_eq!(wrong[0].text, "map bytes: `0` is 1003, expected 1");
        assert_eq!((wrong.len(), &wrong[0].held), (1, &Some(1003.into())));
        let events = machine.events().expect("events");
        assert_eq!(events["losses"], [9_u64.to_le_bytes().to_vec()]);
        machine.reset().expect("reset");
        assert_eq!(machine.differences(&contents("bytes", "0 = 1000\n1 = 0")).expect("contents"), []);
    }
}

#[test]
fn packets_leave_change_and_stay_as_the_policy_says() {
    let maps = contents("ports", "53 = 1\n54 = 2");
    let mut machine = machine("by_port", Setup { maps, ..Setup::default() }).expect("a machine");
    for seed in 0..40 {
        let mut session = machine.session(Config::random(seed)).expect("a session");
        let local = "10.0.0.2:9999".parse().unwrap();
        let send = |port: u16, payload: &[u8]| {
            let asked =
                session.send(local, SocketAddr::new([192, 0, 2, 1].into(), port), Transport::Udp, payload);
            session.settle();
            (session.passed(asked), session.take_sent())
        };
        let (passed, sent) = send(80, b"abc");
        assert_eq!((passed, &sent[0].bytes[8..], sent[0].checksum_ok), (true, &b"abc"[..], true));
        assert_eq!(send(53, b"abc"), (false, vec![]));
        let (passed, sent) = send(54, b"abc");
        assert_eq!((passed, &sent[0].bytes[8..], sent[0].checksum_ok), (false, &b"!!!bc"[..], true));
        let tally = session.tally().expect("counters");
        assert_eq!((tally.runs, tally.edited), (3, 1));
        assert_eq!(session.end(), Vec::<String>::new());
    }
}

#[test]
fn a_setup_that_does_not_fit_is_refused() {
    let code = |program: &str, setup: Setup| machine(program, setup).err().expect("refused").code;
    let maps = |map: &str, entries: &str| Setup { maps: contents(map, entries), ..Setup::default() };
    assert_eq!(code("none", Setup::default()), "program-unknown");
    assert_eq!(code("mark", maps("none", "a = 1")), "map-unknown");
    assert_eq!(code("mark", maps("ports", "a = 1")), "map-data");
    assert_eq!(code("mark", maps("ports", "1 = 1.5")), "map-data");
    assert_eq!(code("mark", maps("losses", "1 = 1")), "map-data");
    assert_eq!(code("mark", maps("bytes", "7 = 1")), "map-data");
    let globals = "none = 1".parse().expect("TOML");
    assert_eq!(code("mark", Setup { globals, ..Setup::default() }), "global-unknown");
    let object = Object::parse(PROBES).expect("the fixture is an object");
    let several = Machine::new(&object, &Setup::default()).err().expect("refused");
    assert_eq!(several.code, "program-several");
    assert!(several.help.expect("names").contains("drop_first_q"));
}

#[test]
fn a_run_sees_the_time_and_the_chance_that_the_one_before_it_saw() {
    let mut machine = probe("constant");
    let mut seen = || {
        machine.reset().expect("reset");
        let start = ((platform().now_ns)(), (platform().random)());
        pass_time(Duration::from_secs(86_400));
        start
    };
    assert_eq!(seen(), seen());
}

#[test]
fn a_step_is_shown_when_its_time_has_come() {
    let now = platform().now_ns;
    let mut machine = probe("constant");
    let session = machine.session(Config::default()).expect("session");
    let ends = ("10.0.0.2:1".parse().unwrap(), "10.0.0.3:2".parse().unwrap());
    let flow = session.open(ends.0, ends.1, Direction::Outbound);
    let then = now();
    session.show(flow, &Step { after: Duration::from_secs(3), ..data(Direction::Outbound, b"a") });
    assert_eq!(now(), then + 3_000_000_000);
    session.close(flow);
    assert_eq!(session.end(), Vec::<String>::new());
}

#[test]
fn the_clock_only_runs_forward() {
    let now = platform().now_ns;
    set_time(Duration::from_secs(5));
    let then = now();
    set_time(Duration::from_secs(3));
    assert_eq!(now(), then);
    set_time(Duration::from_secs(6));
    assert_eq!(now(), then + 1_000_000_000);
    pass_time(Duration::from_millis(1));
    assert_eq!(now(), then + 1_001_000_000);
}

#[test]
fn under_live_traffic_the_clock_runs_until_the_next_start() {
    let now = platform().now_ns;
    let mut machine = probe("constant");
    let session = machine.live(ProgramType::Stream).expect("session");
    let then = now();
    while now() == then {}
    pass_time(Duration::from_secs(1));
    assert!(now() > then + 1_000_000_000);
    assert_eq!(session.end(), Vec::<String>::new());
    machine.reset().expect("reset");
    assert_eq!((now(), now()), (START, START), "it stands");
}
