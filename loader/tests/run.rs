//! `tidegate prog run` over real captures, and over the same captures cut, flipped, reordered and thinned out.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate::capture::{Capture, CaptureWriter, Flags, Packet, Transport};
use tidegate::cli::Report as _;
use tidegate::error::{Error, Exit};
use tidegate::flows::{self, Direction};
use tidegate::run::{self, OnErrorArg, Options, Policy, ProfileOptions};

const PROBES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.o");

fn captures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/captures");
    let entries =
        fs::read_dir(folder).expect("examples/captures").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "pcap")).collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn example(name: &str) -> PathBuf {
    captures().into_iter().find(|path| path.ends_with(name)).expect("an example of this name")
}

fn options(program: &str, pcap: &Path, out: &Path) -> Options {
    Options {
        policy: Policy {
            file: PROBES.into(),
            programs: vec![program.into()],
            maps: vec![],
            map_file: None,
            globals: vec![],
            on_error: OnErrorArg::Block,
        },
        pcap: pcap.into(),
        pcap_out: Some(out.into()),
        local: vec![],
        repeat: NonZeroU32::MIN,
    }
}

/// A file of one test alone.
fn temporary(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("run-{name}"))
}

/// Runs a probe; gives back the report as JSON and what was on the wire.
fn ran(program: &str, pcap: &Path, change: impl FnOnce(&mut Options)) -> (serde_json::Value, Capture) {
    let name = format!("{program}-{}", pcap.file_name().expect("a name").to_string_lossy());
    let out = temporary(&format!("out-{name}"));
    let mut options = options(program, pcap, &out);
    change(&mut options);
    let report = run::run(&options).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(!report.to_string().is_empty());
    let value = serde_json::to_value(&report).expect("JSON");
    assert_eq!(value["broken"], serde_json::json!([]), "{name}");
    (value, Capture::read(&out).expect("the written capture"))
}

/// What a TCP connection carried, as bytes of each direction.
fn carried(capture: &Capture) -> Vec<(SocketAddr, SocketAddr, [Vec<u8>; 2])> {
    let of = |connection: &flows::Connection| {
        let bytes = Direction::ALL.map(|direction| connection.bytes(direction));
        (connection.local, connection.remote, bytes)
    };
    flows::connections(capture, &[]).iter().map(of).collect()
}

fn datagrams(capture: &Capture) -> Vec<(SocketAddr, SocketAddr, &[u8])> {
    let udp = capture.packets.iter().filter(|packet| packet.transport == Transport::Udp);
    udp.map(|packet| (packet.source, packet.destination, &packet.payload[..])).collect()
}

#[test]
fn a_policy_that_has_no_opinion_changes_nothing() {
    for path in captures() {
        let before = Capture::read(&path).expect("a capture");
        for program in ["constant", "by_port"] {
            let (_, after) = ran(program, &path, |_| {});
            assert_eq!(carried(&after), carried(&before), "{program} {}", path.display());
            assert_eq!(datagrams(&after), datagrams(&before), "{program} {}", path.display());
            assert_eq!(after.notes.damage, None);
        }
    }
}

#[test]
fn what_is_written_is_in_order_and_whole() {
    let (report, after) = ran("mark", &example("http-headers.pcap"), |_| {});
    for connection in flows::connections(&after, &[]) {
        assert_eq!(connection.notes, flows::Notes::default());
        assert!(connection.bytes(Direction::Outbound).starts_with(b"[mark]GET /"));
    }
    assert_eq!(report["connections"].as_array().expect("connections").len(), 4);
    let one = &report["connections"][0];
    let edited = one["edited"].as_u64().expect("a count");
    let (shown, delivered) = (&one["sent"]["shown"], &one["sent"]["delivered"]);
    assert_eq!(delivered.as_u64().expect("bytes"), shown.as_u64().expect("bytes") + 6 * edited);
}

#[test]
fn a_connection_that_is_dropped_is_reset_on_the_wire() {
    // The third request has a "q" in its query.
    let path = example("http-keepalive.pcap");
    let (report, after) = ran("drop_q", &path, |_| {});
    let one = &report["connections"][0];
    assert_eq!((&one["dropped"], &one["verdicts"]["drop-connection"]), (&true.into(), &1.into()));
    let requests = carried(&after).remove(0).2[0].clone();
    assert!(requests.starts_with(b"GET /one ") && !requests.contains(&b'q'));
    let reset = after.packets.last().expect("packets");
    assert!(matches!(reset.transport, Transport::Tcp { flags, .. } if flags.rst));
}

#[test]
fn packets_are_blocked_and_changed_as_the_map_says() {
    let path = example("dns-udp.pcap");
    let before = Capture::read(&path).expect("a capture");
    let outgoing = flows::outgoing(&before, &[]).len();
    let (report, after) = ran("by_port", &path, |options| options.policy.maps = vec!["ports.53=1".into()]);
    assert_eq!(datagrams(&after).len(), datagrams(&before).len() - outgoing, "the answers are still there");
    assert!(report["packets"].as_array().expect("packets").iter().all(|packet| packet["fate"] == "blocked"));
    let (report, after) = ran("by_port", &path, |options| options.policy.maps = vec!["ports.53=2".into()]);
    assert_eq!(report["packets"][0]["fate"], "changed");
    let file = temporary("maps.toml");
    fs::write(&file, "[maps.ports]\n53 = 2").expect("a file");
    let (from_file, _) = ran("by_port", &path, |options| options.policy.map_file = Some(file));
    assert_eq!(from_file["packets"], report["packets"]);
    let changed = datagrams(&after)[0].2;
    assert_eq!((&changed[..3], &changed[3..]), (&b"!!!"[..], &datagrams(&before)[0].2[1..]));
}

#[test]
fn a_send_program_sees_the_segments_of_a_connection() {
    let path = example("http-get.pcap");
    let before = Capture::read(&path).expect("a capture");
    let (report, after) = ran("by_port", &path, |options| options.policy.maps = vec!["ports.80=1".into()]);
    assert!(report["packets"].as_array().expect("packets").iter().all(|packet| packet["protocol"] == "TCP"));
    let from_client = |packet: &&Packet| packet.destination.port() == 80;
    assert_eq!(after.packets.iter().filter(from_client).count(), 0);
    let answers = before.packets.len() - before.packets.iter().filter(from_client).count();
    assert_eq!(after.packets.len(), answers);
}

#[test]
fn failed_runs_are_told_by_the_exit_code() {
    let out = temporary("fails.pcap");
    let mut options = options("fails", &example("http-get.pcap"), &out);
    let report = run::run(&options).expect("a report");
    assert_eq!(report.exit(), Exit::Partial);
    assert!(report.to_string().contains("DROPPED") && report.to_string().contains("FAILED"), "{report}");
    options.policy.on_error = OnErrorArg::Permit;
    let report = run::run(&options).expect("a report");
    assert_eq!(report.exit(), Exit::Partial);
    assert!(!report.to_string().contains("DROPPED"), "{report}");
}

#[test]
fn whose_machine_it_is_can_be_said() {
    let (client, server) = ("10.0.0.2:40000".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    let mut writer = CaptureWriter::new();
    let flags = Flags { syn: true, ..Flags::default() };
    writer.tcp(Duration::ZERO, client, server, (7, 0), flags, b"");
    writer.tcp(Duration::ZERO, client, server, (8, 0), Flags { ack: true, ..Flags::default() }, b"hello");
    let path = temporary("local.pcap");
    fs::write(&path, writer.into_bytes()).expect("a file");

    let (report, _) = ran("mark", &path, |_| {});
    assert_eq!(
        (&report["connections"][0]["opened"], &report["connections"][0]["sent"]["delivered"]),
        (&"outbound".into(), &11.into())
    );
    let (report, _) = ran("mark", &path, |options| options.local = vec![server.ip()]);
    let one = &report["connections"][0];
    assert_eq!((&one["opened"], &one["received"]["delivered"]), (&"inbound".into(), &5.into()));
}

#[test]
fn arguments_that_mean_nothing_are_refused() {
    let out = temporary("refused.pcap");
    let code = |change: &dyn Fn(&mut Options)| {
        let mut options = options("mark", &example("http-get.pcap"), &out);
        change(&mut options);
        let error = run::run(&options).expect_err("refused");
        (error.code, error.exit)
    };
    assert_eq!(code(&|options| options.policy.maps = vec!["ports".into()]), ("map-argument", Exit::Usage));
    assert_eq!(
        code(&|options| options.policy.maps = vec!["ports.1={".into()]),
        ("map-argument", Exit::Usage)
    );
    assert_eq!(
        code(&|options| options.policy.maps = vec!["none.1=1".into()]),
        ("map-unknown", Exit::NotFound)
    );
    assert_eq!(code(&|options| options.policy.globals = vec!["x".into()]), ("set-argument", Exit::Usage));
    assert_eq!(
        code(&|options| options.policy.map_file = Some(PROBES.into())),
        ("scenario-malformed", Exit::Usage)
    );
    assert_eq!(code(&|options| options.policy.programs = vec![]), ("program-several", Exit::Usage));
    assert_eq!(code(&|options| options.pcap = PROBES.into()), ("capture-malformed", Exit::Usage));
    assert_eq!(code(&|options| options.pcap = "none.pcap".into()), ("file-not-found", Exit::NotFound));
    assert_eq!(
        code(&|options| options.pcap_out = Some("/none/x".into())),
        ("file-not-found", Exit::NotFound)
    );
}

/// Records of a pcap file, with their headers.
fn records(file: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (header, mut rest) = file.split_at(24);
    let mut found = Vec::new();
    while rest.len() >= 16 {
        let length = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        let (record, behind) = rest.split_at(16 + length);
        found.push(record.to_vec());
        rest = behind;
    }
    (header.to_vec(), found)
}

/// Numbers that a seed decides.
fn dice(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound.max(1)
    }
}

/// Every way to damage a capture, some of each.
fn damaged(file: &[u8], seed: u64) -> Vec<(String, Vec<u8>)> {
    let mut below = dice(seed);
    let (header, whole) = records(file);
    let join = |records: &[Vec<u8>]| [header.clone(), records.concat()].concat();
    let mut all = Vec::new();
    for _ in 0..6 {
        let end = 24 + below(file.len() - 24);
        all.push((format!("cut at byte {end}"), file[..end].to_vec()));
        let mut flipped = file.to_vec();
        for _ in 0..1 + below(6) {
            let at = 24 + below(file.len() - 24);
            flipped[at] ^= 1 << below(8);
        }
        all.push(("flipped bits".into(), flipped));
        let mut thinned = whole.clone();
        for _ in 0..1 + below(4) {
            thinned.remove(below(thinned.len()));
        }
        all.push(("lost packets".into(), join(&thinned)));
    }
    all
}

#[test]
fn damaged_captures_give_a_report_or_a_clear_error() {
    for (seed, path) in (0..).zip(captures()) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let file = fs::read(&path).expect("a capture");
        for (how, bytes) in damaged(&file, seed) {
            let pcap = temporary(&format!("damaged-{name}"));
            fs::write(&pcap, bytes).expect("a file");
            for program in ["mark", "account", "by_port"] {
                let out = temporary(&format!("damaged-out-{name}"));
                match run::run(&options(program, &pcap, &out)) {
                    Ok(report) => {
                        let value = serde_json::to_value(&report).expect("JSON");
                        assert_eq!(value["broken"], serde_json::json!([]), "{name} {how} {program}");
                        Capture::read(&out).expect("the written capture");
                    }
                    Err(error) => assert_eq!(error.code, "capture-malformed", "{name} {how}"),
                }
            }
        }
    }
}

/// Whether a record of a capture, behind its header of 16 bytes an Ethernet frame, resets a TCP connection.
fn is_reset(record: &[u8]) -> bool {
    let (protocol, header) = match record[28..30] {
        [0x86, 0xdd] => (record[36], 40),
        _ => (record[39], 20),
    };
    protocol == 6 && record[30 + header + 13] & 4 != 0
}

#[test]
fn packets_twice_and_out_of_order_carry_the_same() {
    for (seed, path) in (100..).zip(captures()) {
        let file = fs::read(&path).expect("a capture");
        let before = Capture::parse(&file).expect("a capture");
        let (header, whole) = records(&file);
        let mut below = dice(seed);
        for _ in 0..4 {
            let mut records = whole.clone();
            for _ in 0..3 {
                let at = below(records.len());
                records.insert(at, records[at].clone());
                // Neighbours change places, as parallel paths make them. What comes behind a reset is data no more.
                let at = below(records.len() - 1);
                if !is_reset(&records[at]) && !is_reset(&records[at + 1]) {
                    records.swap(at, at + 1);
                }
            }
            let changed = Capture::parse(&[header.clone(), records.concat()].concat()).expect("a capture");
            let sorted = |capture: &Capture| {
                let mut all = carried(capture);
                all.sort();
                all
            };
            // A first SYN behind its answer still tells who opened.
            assert_eq!(sorted(&changed), sorted(&before), "{}", path.display());
        }
    }
}

#[test]
fn bytes_lost_to_a_capture_are_told_to_the_policy() {
    let path = example("tls-large-hello.pcap");
    let file = fs::read(&path).expect("a capture");
    let (header, mut records) = records(&file);
    let capture = Capture::parse(&file).expect("a capture");
    let lost =
        capture.packets.iter().filter(|packet| !packet.payload.is_empty()).nth(1).expect("a second segment");
    records.remove(lost.frame as usize - 1);
    let thinned = temporary("thinned.pcap");
    fs::write(&thinned, [header, records.concat()].concat()).expect("a file");
    let (report, _) = ran("account", &thinned, |_| {});
    let one = &report["connections"][0];
    assert_eq!(one["notes"]["missing"], lost.payload.len());
    let missed: String =
        (lost.payload.len() as u64).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(one["events"], serde_json::json!([{ "map": "losses", "data": missed }]));
}

#[test]
fn a_capture_is_run_again_and_again_until_something_fails() {
    let pcap = example("http-get.pcap");
    let times = |program: &str, repeat| {
        let (report, _) =
            ran(program, &pcap, |options| options.repeat = NonZeroU32::new(repeat).expect("some"));
        let many = report["times"].as_u64() > Some(1);
        assert_eq!(report["seconds_each"].as_f64() > Some(0.0), many, "{report}");
        (report["times"].as_u64().expect("a count"), report["connections"].clone())
    };
    let (once, many) = (times("account", 1), times("account", 3));
    assert_eq!((once.0, many.0), (1, 3));
    assert_eq!(once.1, many.1, "what is told is of the last time alone");
    assert_eq!(times("fails", 3).0, 1);
}

/// Where a probe spends its instructions over a capture, as JSON.
fn profiled(program: &str, pcap: &Path) -> serde_json::Value {
    let Options { policy, pcap, local, .. } = options(program, pcap, Path::new(""));
    let (scenario, name) = (None, None);
    let options = ProfileOptions { policy, pcap: Some(pcap), scenario, name, local };
    let profile = run::profile(&options).expect("a profile");
    assert!(profile.to_string().contains(program), "{profile}");
    serde_json::to_value(&profile).expect("JSON")
}

/// The same over the scenarios with `name` in theirs.
fn profiled_by(policy: Policy, scenario: &Path, name: Option<&str>) -> Result<serde_json::Value, Error> {
    let (scenario, name) = (Some(scenario.into()), name.map(String::from));
    let options = ProfileOptions { policy, pcap: None, scenario, name, local: Vec::new() };
    run::profile(&options).map(|profile| serde_json::to_value(&profile).expect("JSON"))
}

#[test]
fn scenarios_are_profiled_as_captures_are() {
    let policy = |program: &str| options(program, Path::new(""), Path::new("")).policy;
    let file = temporary("profiled.toml");
    let text = "program = \"constant\"\nmaps.ports = { 53 = 1 }\n\
                [[scenario]]\nname = \"captured\"\ncapture = \"http-headers.pcap\"\n\
                [[scenario]]\nname = \"two pieces\"\nsteps = [{ send = \"abc\" }, { receive = \"d\" }]\n";
    fs::write(&file, text).expect("a file");
    for program in ["constant", "without_x", "mark"] {
        let by_capture = profiled(program, &example("http-headers.pcap"));
        let by_scenario = profiled_by(policy(program), &file, Some("captured")).expect("a profile");
        for what in ["runs", "runs_together", "verdicts", "programs"] {
            assert_eq!(by_scenario[what], by_capture[what], "{program}: {what}");
        }
        assert_eq!(
            (&by_scenario["scenarios"], &by_scenario["capture"]),
            (&1.into(), &serde_json::Value::Null)
        );
    }
    // The program that the file names, and more runs with more scenarios.
    let mut unnamed = policy("constant");
    unnamed.programs.clear();
    let all = profiled_by(unnamed.clone(), &file, None).expect("a profile");
    let some = profiled_by(unnamed.clone(), &file, Some("two")).expect("a profile");
    assert_eq!((&some["runs"], &some["scenarios"]), (&2.into(), &1.into()), "{some}");
    let captured = profiled("constant", &example("http-headers.pcap"));
    assert_eq!(all["runs"].as_u64(), captured["runs"].as_u64().map(|runs| runs + 2), "{all}");
    assert_eq!(all["programs"][0]["program"], "constant");
    let none = profiled_by(unnamed, &file, Some("no such")).expect_err("there is none");
    assert_eq!((none.code, none.exit), ("scenario-none", Exit::NotFound));

    // Packets, with the maps of the file, and with those that are typed over them.
    let text = "program = \"by_port\"\nmaps.ports = { 53 = 1 }\n[[scenario]]\nname = \"a\"\n\
                steps = [{ udp = \"a\", is = \"blocked\" }, { udp = \"a\", to = \"192.0.2.1:54\" }]\n";
    fs::write(&file, text).expect("a file");
    let told = profiled_by(policy("by_port"), &file, None).expect("a profile");
    assert_eq!(
        (&told["verdicts"]["block"]["runs"], &told["verdicts"]["continue"]["runs"]),
        (&1.into(), &1.into())
    );
    let mut over = policy("by_port");
    over.maps = vec!["ports.54=1".into()];
    let told = profiled_by(over, &file, None).expect("a profile");
    assert_eq!(told["verdicts"]["block"]["runs"], 2, "{told}");
}

#[test]
fn a_profile_has_every_run_and_every_instruction() {
    let pcap = example("http-headers.pcap");
    for name in ["constant", "without_x", "mark", "account"] {
        let (run, _) = ran(name, &pcap, |_| {});
        let profile = profiled(name, &pcap);
        let connections = run["connections"].as_array().expect("connections");
        let count = |value: &serde_json::Value| value.as_u64().expect("a count");
        let runs: u64 = connections.iter().map(|one| count(&one["runs"])).sum();
        assert!(runs > 0);
        assert_eq!(count(&profile["runs"]), runs, "{name}");
        let verdicts = profile["verdicts"].as_object().expect("verdicts");
        let told: u64 = verdicts.values().map(|spread| count(&spread["runs"])).sum();
        assert_eq!(told + count(&profile["runs_together"]), runs, "{name}");

        let program = &profile["programs"][0];
        let lines = program["lines"].as_array().expect("lines");
        let sum: u64 = lines.iter().map(|line| count(&line["instructions"])).sum();
        assert_eq!(sum + count(&program["without_line"]), count(&program["instructions"]), "{name}");
        assert!(lines.is_sorted_by_key(|line| std::cmp::Reverse(count(&line["instructions"]))), "{name}");
        let source = include_str!("fixtures/probes.c");
        let first = lines[0]["text"].as_str().expect("text");
        assert!(!first.is_empty() && source.contains(first), "{name}: {first}");
    }
}

#[test]
fn runs_that_fail_are_profiled_as_such() {
    let profile = profiled("fails", &example("http-headers.pcap"));
    let verdicts = profile["verdicts"].as_object().expect("verdicts");
    assert_eq!(verdicts.keys().collect::<Vec<_>>(), ["failed"]);
    assert_eq!(verdicts["failed"]["runs"], profile["runs"]);
}

#[test]
fn a_program_without_branches_takes_the_same_in_every_run() {
    let profile = profiled("constant", &example("http-headers.pcap"));
    let spreads: Vec<_> = profile["verdicts"].as_object().expect("verdicts").values().collect();
    assert_eq!(spreads.len(), 1, "{profile}");
    let spread = spreads[0];
    assert_eq!(spread["p50"], spread["max"], "{profile}");
    let runs = profile["runs"].as_u64().expect("a count");
    let each = spread["max"].as_u64().expect("a count");
    assert_eq!(profile["programs"][0]["instructions"].as_u64(), Some(runs * each), "{profile}");
}
