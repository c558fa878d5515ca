//! What an author writes means what it says, and what can't be meant is refused with its line.

use super::*;

/// The policy of `text`, as if it lay in the folder of this crate's tests.
fn read(text: &str) -> Result<Vec<Scenario>, Error> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/scenario/x.toml");
    let file: Result<file::File, _> = toml::from_str(text);
    let reader = Reader { path: &path, text };
    let file = file.map_err(|error| reader.toml_error(&error))?;
    file.scenario.iter().map(|scenario| reader.scenario(scenario, &file)).collect()
}

fn one(text: &str) -> Scenario {
    let mut scenarios = read(&format!("[[scenario]]\nname = \"x\"\n{text}")).expect("a scenario");
    assert_eq!(scenarios.len(), 1);
    scenarios.remove(0)
}

/// What is wrong with a scenario: the line, then the message.
fn wrong(text: &str) -> String {
    let error = read(&format!("[[scenario]]\nname = \"x\"\n{text}")).expect_err("not a scenario");
    assert_eq!(error.code, "scenario-malformed");
    error.message.split_once("x.toml:").expect("the file is named").1.to_string()
}

fn stream(scenario: &Scenario) -> &Stream {
    match &scenario.traffic[..] {
        [Traffic::Stream(stream)] => stream,
        other => panic!("one stream, not {other:?}"),
    }
}

#[test]
fn steps_become_what_the_hooks_are_shown() {
    let scenario = one(r#"
        remote = "[2001:db8::1]:443"
        opener = "remote"
        steps = [
            { send = ["GET /", " HTTP/1.1"], missed = 3 },
            { receive = "hex:00 ff" },
            { fin = "receive", after_ms = 9 },
            { reset = "send" },
        ]
        application = ""
        "#);
    let stream = stream(&scenario);
    assert_eq!(stream.application.as_deref(), Some(""));
    assert_eq!(stream.local, LOCAL_V6.parse().unwrap());
    assert_eq!(stream.opened, Direction::Inbound);
    let data = |bytes: &[u8]| Kind::Data { bytes: bytes.into(), push: true };
    let step = Step::new;
    let steps = [
        Step { missed: 3, ..step(Direction::Outbound, data(b"GET / HTTP/1.1")) },
        step(Direction::Inbound, data(&[0, 255])),
        Step { after: Duration::from_millis(9), ..step(Direction::Inbound, Kind::Fin) },
        step(Direction::Outbound, Kind::Reset),
    ];
    assert_eq!(stream.steps, steps);
}

#[test]
fn a_stream_must_pass_unchanged_unless_something_else_is_said() {
    let expect = |text: &str| one(&format!("steps = [{{ send = \"a\" }}]\n[scenario.expect]\n{text}")).expect;
    assert_eq!(expect("").sent.whole, Whole::Unchanged);
    assert_eq!(expect("connection = \"dropped\"").sent.whole, Whole::Any);
    assert_eq!(expect("sent_contains = [\"b\"]").sent.whole, Whole::Any);
    assert_eq!(expect("sent_contains = [\"b\"]").received.whole, Whole::Unchanged);
    assert_eq!(expect("sent = \"nothing\"").sent.whole, Whole::Exactly(vec![]));
    assert_eq!(expect("sent = \"text:nothing\"").sent.whole, Whole::Exactly(b"nothing".into()));
    let verdicts = expect("verdicts = [\"permit\", \"drop-connection\"]").verdicts;
    assert_eq!(verdicts, Some(vec![Verdict::Permit, Verdict::DropConnection]));
}

#[test]
fn packets_say_each_for_itself_what_must_come_of_it() {
    let scenario = one(r#"
        remote = "192.0.2.53:53"
        steps = [
            { udp = "a" },
            { udp = "b", is = "blocked", to = "192.0.2.7:5353" },
            { udp = "c", becomes = "cc" },
            { tcp = "d", flags = "syn, ack" },
            { udp = "e", leaves_for = "192.0.2.7:5353", after_ms = 1500 },
            { udp = "f", tos = 184, becomes = "f" },
        ]"#);
    let [Traffic::Packets(packets)] = &scenario.traffic[..] else { panic!("packets") };
    let fates: Vec<_> = packets.iter().map(|packet| packet.fate.clone().unwrap()).collect();
    let (other, same) = (Fate::Becomes(b"cc".into()), Fate::Becomes(b"f".into()));
    assert_eq!(fates, [Fate::Sent, Fate::Blocked, other, Fate::Sent, Fate::Changed, same]);
    assert_eq!(packets[4].leaves_for, Some("192.0.2.7:5353".parse().unwrap()));
    assert_eq!(packets[4].after, Duration::from_millis(1500));
    assert_eq!((packets[0].tos, packets[5].tos), (None, Some(184)));
    assert_eq!(packets[1].remote, "192.0.2.7:5353".parse().unwrap());
    let flags = Flags { syn: true, ack: true, ..Flags::default() };
    assert_eq!(packets[3].transport, Transport::Tcp { sequence: 1, flags });
}

#[test]
fn a_capture_gives_each_of_its_connections() {
    let all = one("capture = \"http-headers.pcap\"");
    assert_eq!(all.traffic.len(), 4);
    let third = one("capture = \"http-headers.pcap\"\nflow = 3");
    let stream = stream(&third);
    assert_eq!((stream.label.as_str(), stream.remote.port()), ("connection 3", 80));
    let sent = stream.steps.iter().find(|step| step.direction == Direction::Outbound).expect("a request");
    assert!(matches!(&sent.kind, Kind::Data { bytes, .. } if bytes.starts_with(b"GET /longer ")));
    assert!(stream.steps.iter().any(|step| step.direction == Direction::Inbound));

    let packets = one("capture = \"dns-udp.pcap\"\nport = 53\n[scenario.expect]\npackets = { sent = 9 }");
    let [Traffic::Packets(packets)] = &packets.traffic[..] else { panic!("packets") };
    assert_eq!(packets.len(), 9);
}

#[test]
fn maps_of_a_scenario_add_to_those_of_the_file() {
    let text = r#"
        [maps.names]
        a = 1
        b = 2
        [[scenario]]
        name = "x"
        maps.names = { b = 3, c = 4 }
        steps = [{ send = "x" }]"#;
    let names = &read(text).unwrap()[0].maps["names"];
    let entries: Vec<_> =
        names.iter().map(|(key, value)| (key.as_str(), value.as_integer().unwrap())).collect();
    assert_eq!(entries, [("a", 1), ("b", 3), ("c", 4)]);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (text, message) in [
        ("", "1: scenario `x` has neither `steps` nor a `capture`"),
        ("step = []", "3: unknown field `step`"),
        ("steps = [\n{ send = \"\" }]", "4: a piece of a stream has at least one byte"),
        ("steps = [{ send = \"hex:0\" }]", "3: `hex:` wants whole bytes"),
        ("steps = [{ send = \"a\", fin = \"send\" }]", "3: a step is one of"),
        ("steps = [\n\n{ send = \"a\" }, { udp = \"a\" }]", "5: a scenario shows a connection"),
        (
            "steps = [{ send = \"a\", is = \"sent\" }]",
            "3: `flags`, `from`, `to`, `is`, `becomes`, `leaves_for` and `tos` are for packets",
        ),
        ("steps = [{ udp = \"a\", flags = \"syn\" }]", "3: a packet is one of"),
        (
            "steps = [{ udp = \"a\", is = \"blocked\", tos = 1 }]",
            "3: what `leaves_for` somewhere else or with a `tos` is changed",
        ),
        ("steps = [{ tcp = \"a\", flags = \"sin\" }]", "3: `sin` is not a flag"),
        (
            "remote = \"192.0.2.1\"\nsteps = [{ send = \"a\" }]",
            "3: `192.0.2.1` is not an address with a port",
        ),
        ("local = \"[::1]:1\"\nsteps = [{ send = \"a\" }]", "3: `local` and `remote` are of different"),
        (
            "steps = [{ send = \"a\" }]\n[scenario.expect]\nverdicts = [\"deny\"]",
            "1: `deny` is not a verdict",
        ),
        ("capture = \"http-get.pcap\"\nflow = 9", "4: the capture has connections 1 to 1"),
        ("capture = \"http-get.pcap\"\nport = 9", "3: the capture has no such connection"),
        ("beside = 1\nsteps = [{ udp = \"a\" }]", "3: `beside` counts connections, not packets"),
        ("steps = [{ send = 1 }]", "3: "),
        ("steps = [{ fin = \"sent\" }]", "3: unknown variant `sent`"),
        ("steps = [", "3: "),
    ] {
        let said = wrong(text);
        assert!(said.starts_with(message), "{text}\n{said}");
    }
}

#[test]
fn what_is_not_there_is_said_with_what_to_do() {
    let missing = read("[[scenario]]\nname = \"x\"\ncapture = \"none.pcap\"").unwrap_err();
    assert_eq!((missing.code, missing.exit), ("capture-not-found", Exit::NotFound));

    let folder = std::env::temp_dir().join(format!("tidegate-scenario-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("x.toml");
    fs::write(&path, "objects = [\"x.o\"]\n[[scenario]]\nname = \"x\"\nsteps = [{ send = \"a\" }]").unwrap();
    let missing = Policy::read(&path, None).unwrap_err();
    fs::write(&path, "\n\n[[scenario]]\nname = \"x\"\nsteps = [{ send = \"a\" }]").unwrap();
    let unnamed = Policy::read(&path, None).unwrap_err();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!((missing.code, missing.exit), ("object-not-found", Exit::NotFound));
    assert!(missing.help.unwrap().contains("cargo xtask programs"));
    assert!(unnamed.message.ends_with("no object to test"), "{}", unnamed.message);
}
