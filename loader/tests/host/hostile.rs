//! Clients that mean no good to a host: whatever they send or leave unsent, it lives, its memory is bounded, and the traffic and
//! the other clients go on.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use tidegate_abi::control::{self, EventRead, HEADER_SIZE, Header, MapList, Operation};
use tidegate_abi::limits;

use crate::common::{GATE, Host, folder, tidegate};

fn request<O: Operation>(operation: &O) -> Vec<u8> {
    let mut bytes = [0; 64];
    let length = control::write_request(operation, &mut bytes).expect("it is short");
    bytes[..length].to_vec()
}

/// A header that announces so many bytes behind it.
fn announced(length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("a length");
    Header { version: tidegate_abi::API_VERSION, code: MapList::NUMBER, length, reserved: 0 }
        .to_bytes()
        .to_vec()
}

/// Bytes behind the header `head`.
fn length(head: &[u8; HEADER_SIZE]) -> usize {
    u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize
}

/// The most that may be announced.
const MOST: usize = limits::MAX_MESSAGE - HEADER_SIZE;

fn client(host: &Host) -> UnixStream {
    UnixStream::connect(&host.socket).expect("it listens")
}

/// Traffic passes, old connections and new ones, and who asks properly is answered.
fn goes_on(host: &Host, old: &mut TcpStream) {
    assert_eq!(host.say(old, "hello", 5).as_deref(), Some("hello"));
    assert_eq!(host.say(&mut host.connect(), "hello", 5).as_deref(), Some("hello"));
    assert_eq!(host.run(&["map", "show"]).exit, 0);
}

fn start(folder: &Path) -> (Host, TcpStream) {
    let host = Host::start_narrow(folder, 160);
    let old = host.connect();
    (host, old)
}

#[test]
fn many_clients_that_say_nothing_or_half_of_something_are_in_nobodys_way() {
    let (host, mut old) = start(&folder("hostile-many"));
    let good = request(&MapList { after: 0 });
    let parts = [&[][..], &good[..1], &good[..HEADER_SIZE], &good[..good.len() - 1], &announced(MOST), &good];
    // More than it may have files open.
    let clients: Vec<_> = (0..400)
        .map(|number| {
            let mut client = client(&host);
            client.write_all(parts[number % parts.len()]).expect("it has room");
            client
        })
        .collect();
    goes_on(&host, &mut old);
    // Who came last has its place, and is answered.
    let mut last = client(&host);
    last.write_all(&good).expect("it has room");
    last.read_exact(&mut [0; HEADER_SIZE]).expect("an answer");
    // Of the first it was heard longest ago: they are left.
    let mut rest = Vec::new();
    let mut first = &clients[0];
    assert_eq!(first.read_to_end(&mut rest).expect("the end"), 0, "{rest:?}");
    drop(clients);
    goes_on(&host, &mut old);
}

#[test]
fn a_client_that_is_heard_of_keeps_its_place_while_others_come() {
    let host = Host::start(&folder("hostile-heard"));
    let good = request(&MapList { after: 0 });
    let mut heard = client(&host);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(client(&host));
        heard.write_all(&good).expect("it listens");
        let mut head = [0; HEADER_SIZE];
        heard.read_exact(&mut head).expect("an answer");
        heard.read_exact(&mut vec![0; length(&head)]).expect("its body");
    }
}

#[test]
fn who_stops_in_the_middle_of_a_message_is_left() {
    let (host, mut old) = start(&folder("hostile-half"));
    let good = request(&MapList { after: 0 });
    let halves = [good[..1].to_vec(), good[..good.len() - 1].to_vec(), announced(MOST)];
    let mut clients: Vec<_> = halves
        .iter()
        .map(|half| {
            let mut client = client(&host);
            client.write_all(half).expect("it has room");
            client
        })
        .collect();
    let mut patient = client(&host);
    goes_on(&host, &mut old);
    for client in &mut clients {
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).expect("the end"), 0, "{rest:?}");
    }
    // Between messages there is no hurry, and one that is whole is answered, whoever has closed the other direction.
    patient.write_all(&good).expect("it listens");
    patient.shutdown(Shutdown::Write).expect("it is open");
    let mut answer = Vec::new();
    patient.read_to_end(&mut answer).expect("an answer, then the end");
    assert!(answer.len() > HEADER_SIZE, "{answer:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_there_for_few_large_messages_at_a_time() {
    const ALL: usize = 40;
    let (host, mut old) = start(&folder("hostile-memory"));
    let (sent, is_sent) = mpsc::channel();
    let senders: Vec<_> = (0..ALL)
        .map(|_| {
            let (mut client, sent) = (client(&host), sent.clone());
            thread::spawn(move || {
                client.write_all(&announced(MOST)).expect("it listens");
                let all_but_one = client.write_all(&vec![0; MOST - 1]);
                // Whoever takes it decides when the connection ends.
                sent.send((client, all_but_one)).expect("the test waits");
            })
        })
        .collect();
    for turn in 0..ALL {
        let (client, all_but_one) = is_sent.recv().expect("a client");
        all_but_one.expect("it was read when there was room");
        if turn == 0 {
            goes_on(&host, &mut old);
        }
        drop(client);
    }
    senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
    let most = host.most_memory();
    assert!(most < 256 << 10, "{most} KiB for {ALL} messages of 16 MiB");
}

#[test]
fn who_takes_no_answers_is_left_and_who_goes_in_the_middle_of_one_is_forgotten() {
    let (host, mut old) = start(&folder("hostile-slow"));
    host.run(&["prog", "load", GATE, "--prog", "stamp", "--map", "marks.0=str:<first>", "--attach"]).ok();
    let maps = host.run(&["-j", "map", "show"]).json();
    let ring = maps["maps"].as_array().expect("maps").iter().find(|map| map["name"] == "stamped");
    let map = ring.and_then(|map| map["id"].as_u64()).and_then(|id| u32::try_from(id).ok()).expect("an id");
    let read = request(&EventRead { map, max: u32::MAX });

    // It asks for events again and again, and takes none.
    let mut slow = client(&host);
    let again = read.clone();
    let slow = thread::spawn(move || {
        loop {
            if let Err(error) = slow.write_all(&again) {
                return error.kind();
            }
        }
    });
    for _ in 0..100 {
        let mut client = client(&host);
        // What it has not read is lost.
        client.write_all(&read.repeat(50)).expect("it listens");
    }
    assert_eq!(host.say(&mut old, "hello", 5).as_deref(), Some("hello"), "it was there before the link");
    assert_eq!(host.say(&mut host.connect(), "hello", 13).as_deref(), Some("<first>\0hello"));
    let ended = slow.join().expect("no panic");
    assert!(matches!(ended, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{ended:?}");
    // The next reader has all that comes from now on.
    assert_eq!(host.say(&mut host.connect(), "hello", 13).as_deref(), Some("<first>\0hello"));
    let events = host.run(&["event", "stamped", "--count", "1"]).ok();
    assert!(events.lines().last().is_some_and(|line| line.ends_with(" 0 dropped")), "{events}");
}

#[test]
fn whatever_is_sent_the_host_answers_it_or_hangs_up() {
    let (host, mut old) = start(&folder("hostile-noise"));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut dice = move |sides: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % sides
    };
    let version = tidegate_abi::API_VERSION;
    for _ in 0..500 {
        let mut client = client(&host);
        let mut noise: Vec<u8> = (0..dice(200)).map(|_| dice(256) as u8).collect();
        if dice(4) > 0 {
            // A proper header, with an operation and a body that may be none.
            let code = dice(48) as u16;
            let header = Header { version, code, length: noise.len() as u32, reserved: 0 };
            noise.splice(..0, header.to_bytes());
        }
        client.write_all(&noise).expect("it has room");
        client.shutdown(Shutdown::Write).expect("it is open");
        let mut answers = Vec::new();
        // It hangs up on what it has not read with a reset.
        match client.read_to_end(&mut answers) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}"),
        }
        let mut rest = &answers[..];
        while !rest.is_empty() {
            let head = rest.first_chunk::<HEADER_SIZE>().expect("a whole header");
            rest = rest.get(HEADER_SIZE + length(head)..).expect("a whole reply");
        }
    }
    goes_on(&host, &mut old);
}

#[test]
fn a_scrape_is_answered_also_when_the_one_who_answers_was_left_meanwhile() {
    let host = Host::start(&folder("hostile-scrape"));
    let mut stats = tidegate();
    stats.arg("--host").arg(&host.socket).args(["prog", "stats", "--listen", "127.0.0.1:0"]);
    let mut stats = stats.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let told = stats.stderr.take().expect("piped");
    BufReader::new(told).read_line(&mut line).expect("where it listens");
    let address = line.trim().trim_start_matches("http://").trim_end_matches("/metrics").to_string();
    let scrape = || {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
    };
    scrape();
    let good = request(&MapList { after: 0 });
    let others: Vec<_> = (0..100)
        .map(|_| {
            let mut client = client(&host);
            client.write_all(&good).expect("it listens");
            client.read_exact(&mut [0; HEADER_SIZE]).expect("an answer");
            client
        })
        .collect();
    scrape();
    drop(others);
    stats.kill().expect("it runs");
    stats.wait().expect("it ends");
}
