//! A host runs what a bundle says, and a client that dies on the way leaves the old links or the new ones.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use serde_json::Value;
use tidegate_abi::control::{self, HEADER_SIZE};

use crate::common::{GATE, Host, Ran, folder, tidegate};
use crate::conform::conforms;

/// A bundle that marks what is said and cuts what begins with one letter.
fn bundle(folder: &Path, name: &str, mark: &str, letter: char, more: &str) -> PathBuf {
    let path = folder.join(name);
    let text = format!(
        "[[link]]\nobject = \"{GATE}\"\nprogram = \"cut\"\npriority = 5\nmaps.cuts = {{ {} = 0 }}\n\
         [[link]]\nobject = \"{GATE}\"\nprogram = \"stamp\"\npriority = 10\nmaps.marks = {{ 0 = \"str:{mark}\" }}\n{more}",
        u32::from(letter)
    );
    fs::write(&path, text).expect("a bundle");
    path
}

/// What a host does: how it marks, and which of two letters it cuts.
pub(crate) fn behaviour(host: &Host) -> (String, Vec<char>) {
    let marked = host.say(&mut host.connect(), "hello", 13).expect("hello is never cut");
    let cuts = |letter: &char| {
        let text = format!("{letter}uit");
        host.say(&mut host.connect(), &text, 12).is_none()
    };
    (marked[..8].to_string(), ['q', 'x'].into_iter().filter(cuts).collect())
}

/// Programs, links and maps that a host has.
pub(crate) fn counts(host: &Host) -> (usize, usize, usize) {
    let count = |noun: &str, list: &str| {
        let document = host.run(&["-j", noun, "show"]).json();
        document[list].as_array().expect("a list").len()
    };
    (count("prog", "programs"), count("link", "links"), count("map", "maps"))
}

fn old() -> (String, Vec<char>) {
    ("<first_>".into(), vec!['q'])
}

fn new() -> (String, Vec<char>) {
    ("<second>".into(), vec!['x'])
}

#[test]
fn what_a_bundle_says_runs_and_what_ran_before_runs_again() {
    let folder = folder("apply");
    let host = Host::start(&folder);
    let first = bundle(&folder, "first.toml", "<first_>", 'q', "");
    let second = bundle(&folder, "second.toml", "<second>", 'x', "on_error = \"permit\"\n");
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let verb = |verb: &str, file: &Path| words(&["-j", verb, file.to_str().unwrap()]);

    let said = host.run(&[&verb("apply", &first)[..], &words(&["--dry-run"])].concat()).json();
    assert_eq!(
        (&said["applied"], said["steps"].as_array().map(Vec::len)),
        (&false.into(), Some(4)),
        "{said}"
    );
    assert_eq!(counts(&host), (0, 0, 0), "a dry run touches nothing");

    let said = host.run(&verb("apply", &first)).json();
    assert_eq!((&said["applied"], &said["kept"]), (&true.into(), &0.into()), "{said}");
    let one = counts(&host);
    assert_eq!((one.0, one.1), (2, 4), "two programs, each for both families");
    let said = host.run(&verb("apply", &first)).json();
    assert_eq!((said["steps"].as_array().map(Vec::len), &said["kept"]), (Some(0), &4.into()), "{said}");
    assert_eq!(behaviour(&host), old());
    let said = host.run(&verb("diff", &first)).json();
    assert_eq!(said["steps"][0]["why"][0], "contents of map `cuts`", "a program has counted in it: {said}");

    let links = host.run(&["-j", "link", "show"]).json();
    let said = host.run(&verb("diff", &second)).json();
    let step = |at: usize| {
        (said["steps"][at]["action"].as_str().unwrap(), said["steps"][at]["why"][0].as_str().unwrap())
    };
    assert_eq!(step(0), ("replace", "contents of map `cuts`"), "{said}");
    assert_eq!(step(2), ("attach", "on_error"), "a link's rules are another link's: {said}");
    assert_eq!(host.run(&["-j", "link", "show"]).json(), links, "a comparison changes nothing");

    host.run(&verb("apply", &second)).ok();
    assert_eq!((behaviour(&host), counts(&host)), (new(), one));
    let kept = host.run(&["-j", "link", "show"]).json();
    assert_eq!(
        kept["links"][0]["id"], links["links"][0]["id"],
        "a link whose program changes stays what it is"
    );
    host.run(&["rollback", "--dry-run"]).ok();
    assert_eq!(behaviour(&host), new());
    host.run(&["rollback"]).ok();
    assert_eq!((behaviour(&host), counts(&host)), (old(), one));
    host.run(&["rollback"]).ok();
    assert_eq!(behaviour(&host), new(), "there and back");

    // Somebody changed a map that is the bundle's, and attached something that it does not have.
    host.run(&["prog", "load", GATE, "--prog", "stamp"]).ok();
    let all = host.run(&["-j", "prog", "show"]).json();
    let stray =
        all["programs"].as_array().unwrap().iter().filter_map(|row| row["id"].as_u64()).max().unwrap();
    host.run(&["link", "attach", &stray.to_string(), "stream-v4", "--priority", "1"]).ok();
    host.run(&verb("apply", &second)).ok();
    assert_eq!((behaviour(&host), counts(&host)), (new(), one));
}

/// A bundle of two objects: one that cuts nothing, as long as nobody says what, and one that marks what is said.
fn trying(folder: &Path, name: &str, mark: &str) -> PathBuf {
    fs::copy(GATE, folder.join("stamp.o")).expect("an object");
    let text = format!(
        "[[link]]\nobject = \"{GATE}\"\nprogram = \"cut\"\npriority = 5\n\
         [[link]]\nobject = \"stamp.o\"\nprogram = \"stamp\"\npriority = 10\nmaps.marks = {{ 0 = \"str:{mark}\" }}\n",
    );
    let path = folder.join(name);
    fs::write(&path, text).expect("a bundle");
    path
}

/// Tries a program that cuts `q` in the first link of a host: its id, and the link's.
fn try_a_cut(host: &Host, words: &[&str]) -> (String, String) {
    let loaded = host.run(&["-j", "prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=0"]).json();
    let program = loaded["programs"][0]["id"].to_string();
    let link = host.run(&["-j", "link", "show"]).json()["links"][0]["id"].to_string();
    host.run(&[&["link", "replace", &link, &program], words].concat()).ok();
    (program, link)
}

#[test]
fn what_is_tried_in_a_link_is_no_part_of_a_bundle_and_ends_with_apply() {
    let folder = folder("apply-trial");
    let host = Host::start(&folder);
    let bundle = trying(&folder, "bundle.toml", "<first_>");
    let path = bundle.to_str().unwrap();
    host.run(&["apply", path]).ok();
    let (clean, links) = (counts(&host), host.run(&["-j", "link", "show"]).json()["links"].clone());
    let runs = ("<first_>".to_string(), vec![]);
    assert_eq!(behaviour(&host), runs);
    for (words, mode, percent, text) in [
        (&["--canary", "100%"][..], "canary", 100.into(), ", 100% of connections"),
        (&["--shadow"], "shadow", Value::Null, ""),
    ] {
        let (program, link) = try_a_cut(&host, words);
        let decides = mode == "canary";
        assert_eq!(!behaviour(&host).1.is_empty(), decides, "{mode}");
        let said = host.run(&["diff", path]).ok();
        let line = format!("~ stream-v4 5: cut (ends a {mode}: `cut`, program {program}{text})\n");
        assert!(said.starts_with(&line), "{said}");
        for (verb, words) in [("diff", &["diff", path][..]), ("apply", &["apply", path, "--dry-run"])] {
            let said = host.run(&[&["-j"], words].concat()).json();
            conforms(verb, &said);
            let step = &said["steps"][0];
            assert_eq!((&step["action"], step["link"].to_string()), (&"end-trial".into(), link.clone()));
            let trial = &step["trial"];
            assert_eq!(
                (&trial["mode"], &trial["percent"], &trial["name"], trial["program"].to_string()),
                (&mode.into(), &percent, &"cut".into(), program.clone())
            );
            assert_eq!((said["steps"].as_array().map(Vec::len), &said["kept"]), (Some(1), &3.into()));
        }
        host.run(&["apply", path]).ok();
        let now = host.run(&["-j", "link", "show"]).json()["links"].clone();
        assert_eq!((&now[0]["trial"], &now[0]["id"]), (&Value::Null, &links[0]["id"]), "the link stays");
        assert_eq!((behaviour(&host), counts(&host)), (runs.clone(), clean), "and what was tried is gone");
        assert_eq!(host.run(&["-j", "diff", path]).json()["steps"], serde_json::json!([]));
    }
    // A trial that ended is no other bundle.
    let ran = host.run(&["-j", "rollback"]);
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (5, &"rollback-none".into()));
}

#[test]
fn a_trial_ends_at_once_with_what_else_changes_wherever_the_client_is_killed() {
    let folder = folder("apply-trial-killed");
    let host = Host::start(&folder);
    let first = trying(&folder, "first.toml", "<first_>");
    let second = trying(&folder, "second.toml", "<second>");
    let apply = |bundle: &Path| host.run(&[Path::new("apply"), bundle]).ok();
    let (tried, new) = (("<first_>".to_string(), vec!['q']), ("<second>".to_string(), vec![]));
    let (mut olds, mut news) = (0, 0);
    'all: for at in 0.. {
        for before in [true, false] {
            apply(&first);
            try_a_cut(&host, &["--canary", "100%"]);
            if killed(&host, &folder, &[Path::new("apply"), &second], at, before) {
                break 'all;
            }
            let runs = behaviour(&host);
            olds += usize::from(runs == tried);
            news += usize::from(runs == new);
            assert!(runs == tried || runs == new, "killed around change {at}: {runs:?}");
        }
    }
    assert!(olds > 3 && news > 2, "{olds} {news}");
    assert_eq!(behaviour(&host), new);
}

#[test]
fn a_link_with_a_filter_that_the_bundle_does_not_have_is_another_one() {
    let folder = folder("apply-filter");
    let host = Host::start(&folder);
    let bundle = bundle(&folder, "bundle.toml", "<first_>", 'q', "");
    let path = bundle.to_str().unwrap();
    host.run(&["apply", path]).ok();
    let link = host.run(&["-j", "link", "show"]).json()["links"][0]["id"].to_string();
    host.run(&["link", "attach", "cut", "stream-v4", "--priority", "5", "--filter", "remote port 1"]).ok();
    host.run(&["link", "detach", &link]).ok();
    assert_eq!(behaviour(&host).1, [], "it is shown nothing");
    let said = host.run(&["-j", "apply", path]).json();
    let step = &said["steps"][0];
    assert_eq!((&step["action"], &step["why"][0]), (&"attach".into(), &"filter".into()), "{said}");
    assert_eq!(behaviour(&host), old());
}

#[test]
fn a_link_of_a_bundle_is_shown_what_fits_its_filter() {
    let folder = folder("apply-filtered");
    let host = Host::start(&folder);
    let bundle = bundle(&folder, "bundle.toml", "<first_>", 'q', "");
    let path = bundle.to_str().unwrap();
    let all = fs::read_to_string(&bundle).expect("the bundle");
    let write = |filter: &str| {
        let text = all.replace("program = \"cut\"\n", &format!("program = \"cut\"\nfilter = \"{filter}\"\n"));
        assert_ne!(text, all);
        fs::write(&bundle, text).expect("a bundle");
    };
    write("remote net 10.0.0.0/8");
    host.run(&["apply", path]).ok();
    assert_eq!(behaviour(&host).1, [], "it is shown nothing");
    let again = host.run(&["-j", "apply", path]).json();
    assert_eq!(again["steps"].as_array().map(Vec::len), Some(0), "{again}");
    write("host 127.0.0.1");
    host.run(&["apply", path]).ok();
    assert_eq!(behaviour(&host), old());
    for (filter, code) in [("port 80 or tcp", "bundle-malformed"), ("udp", "link-filter")] {
        write(filter);
        let ran = host.run(&["-j", "apply", path]);
        let error = ran.json()["error"].clone();
        assert_eq!((ran.exit, &error["code"]), (1, &code.into()), "{filter}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("bundle.toml:")), "{error}");
    }
    assert_eq!(behaviour(&host), old());
}

/// Ids and names of the programs and maps that a host has.
fn things(host: &Host) -> BTreeSet<(String, u64, String)> {
    let mut things = BTreeSet::new();
    for (what, noun, list) in [("program", "prog", "programs"), ("map", "map", "maps")] {
        let document = host.run(&["-j", noun, "show"]).json();
        for row in document[list].as_array().expect("a list") {
            let name = row["name"].as_str().expect("a name").to_string();
            things.insert((what.to_string(), row["id"].as_u64().expect("an id"), name));
        }
    }
    things
}

#[test]
fn a_plan_names_each_program_and_map_that_goes_and_no_other() {
    let folder = folder("apply-removes");
    let host = Host::start(&folder);
    let first = bundle(&folder, "first.toml", "<first_>", 'q', "");
    let second = bundle(&folder, "second.toml", "<second>", 'x', "on_error = \"permit\"\n");
    let free = trying(&folder, "free.toml", "<first_>");
    let freer = trying(&folder, "freer.toml", "<second>");
    let none = folder.join("none.toml");
    fs::write(&none, "").expect("a bundle");
    let goes = |bundle: &Path| {
        let path = bundle.to_str().unwrap();
        let said = host.run(&["-j", "diff", path]).json();
        conforms("diff", &said);
        let planned: BTreeSet<_> = said["removes"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| {
                let text = |member: &str| row[member].as_str().expect("text").to_string();
                (text("what"), row["id"].as_u64().expect("an id"), text("name"))
            })
            .collect();
        let text = host.run(&["apply", path, "--dry-run"]).ok();
        for (what, id, name) in &planned {
            assert!(text.contains(&format!("\n- {what} {id}: {name} (")) || text.starts_with("- "), "{text}");
        }
        let before = things(&host);
        let done = host.run(&["-j", "apply", path]).json();
        conforms("apply", &done);
        assert_eq!(done["removes"], said["removes"]);
        let gone: BTreeSet<_> = before.difference(&things(&host)).cloned().collect();
        assert_eq!(gone, planned, "{path}: {text}");
        gone.into_iter().map(|(what, _, name)| (what, name)).collect::<Vec<_>>()
    };
    let named = |what: &str, name: &str| (what.to_string(), name.to_string());
    assert_eq!(goes(&first), []);
    assert!(goes(&second).contains(&named("map", "cuts")), "the bundle fills it");
    assert_eq!(goes(&second), []);

    // What somebody left: a program without a link, and maps that nobody names.
    host.run(&["prog", "load", GATE, "--prog", "stamp"]).ok();
    host.run(&["map", "create", "mine", "--kind", "hash", "--key", "2", "--value", "4", "--entries", "16"])
        .ok();
    let text = host.run(&["diff", second.to_str().unwrap()]).ok();
    for part in
        [": stamp (no link runs it)\n", ": mine (no program names it)\n", "0 links to change, 4 links kept"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let gone = goes(&second);
    assert!(gone.contains(&named("program", "stamp")) && gone.contains(&named("map", "mine")), "{gone:?}");

    goes(&free);
    try_a_cut(&host, &["--shadow"]);
    assert!(!goes(&freer).contains(&named("map", "stamped")), "nobody fills it: it goes on");
    assert!(goes(&none).contains(&named("map", "stamped")));
    assert_eq!(counts(&host), (0, 0, 0));
}

#[test]
fn a_bundle_that_cannot_be_is_refused_with_its_line_and_changes_nothing() {
    let folder = folder("apply-refused");
    let host = Host::start(&folder);
    let good = bundle(&folder, "good.toml", "<first_>", 'q', "");
    host.run(&[Path::new("apply"), &good]).ok();
    let before = counts(&host);
    let link = |rest: &str| format!("[[link]]\nobject = \"{GATE}\"\n{rest}");
    for (text, exit, code, part) in [
        (link("program = \"cut\"\n"), 1, "bundle-malformed", "missing field `priority`"),
        (
            link("program = \"cut\"\npriority = 1\nhook = 2\n"),
            1,
            "bundle-malformed",
            "bad.toml:5: unknown field",
        ),
        (
            link("program = \"cut\"\npriority = 1\nhooks = [\"stream\"]\n"),
            1,
            "bundle-malformed",
            "no hook `stream`",
        ),
        (link("priority = 1\n"), 1, "bundle-malformed", "has priority 1 at stream-v4"),
        (link("program = \"no\"\npriority = 1\n"), 1, "program-unknown", "has no program `no`"),
        (link("program = \"cut\"\npriority = 1\nmaps.cuts = { toolong = 0 }\n"), 1, "map-data", "map `cuts`"),
        (link("program = \"cut\"\npriority = 1\nbudget = 2\n"), 2, "apply", "budget"),
        ("[[link]]\nobject = \"nowhere.o\"\npriority = 1\n".into(), 5, "file-not-found", "nowhere.o"),
    ] {
        let bad = folder.join("bad.toml");
        fs::write(&bad, &text).expect("a file");
        let ran = host.run(&[Path::new("-j"), Path::new("apply"), &bad]);
        let error = ran.json()["error"].clone();
        assert_eq!((ran.exit, &error["code"]), (exit, &code.into()), "{text}{error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{part}: {error}");
        assert_eq!((behaviour(&host), counts(&host)), (old(), before), "{text}");
    }
    let ran = host.run(&["-j", "rollback"]);
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (5, &"rollback-none".into()));
}

/// A message as it stands on a socket; `None` at its end.
fn message(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut message = vec![0; HEADER_SIZE];
    stream.read_exact(&mut message).ok()?;
    let length = u32::from_le_bytes(message[4..8].try_into().expect("four bytes"));
    message.resize(HEADER_SIZE + length as usize, 0);
    stream.read_exact(&mut message[HEADER_SIZE..]).ok()?;
    Some(message)
}

/// What becomes of a client around one of its changes.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Killed before the host gets the change.
    KilledBefore,
    /// Killed before it gets the answer.
    KilledBehind,
    /// The connection ends in place of the answer.
    Cut,
}

/// Types `words` by a client that is killed around its change `at`: before the host gets it, or before the client gets the
/// answer. Whether it came to its end before.
pub(crate) fn killed<S: AsRef<std::ffi::OsStr>>(
    host: &Host,
    folder: &Path,
    words: &[S],
    at: usize,
    before: bool,
) -> bool {
    fails(host, folder, words, at, if before { Fate::KilledBefore } else { Fate::KilledBehind })
}

/// Types `words` by a client that meets its fate around its change `at`. Whether it came to its end before.
fn fails<S: AsRef<std::ffi::OsStr>>(host: &Host, folder: &Path, words: &[S], at: usize, fate: Fate) -> bool {
    let path = folder.join("between");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut client =
        tidegate().arg("--host").arg(&path).args(words).stdout(Stdio::null()).spawn().expect("it starts");
    let (mut from, _) = listener.accept().expect("it connects");
    let mut to = UnixStream::connect(&host.socket).expect("the host listens");
    let mut changes = 0;
    while let Some(request) = message(&mut from) {
        let changes_something = control::changes(u16::from_le_bytes([request[2], request[3]]));
        let now = changes_something && changes == at;
        changes += usize::from(changes_something);
        if !(now && fate == Fate::KilledBefore) {
            to.write_all(&request).expect("the host reads");
            let reply = message(&mut to).expect("the host answers");
            if !now {
                from.write_all(&reply).expect("the client reads");
            }
        }
        if now && fate == Fate::Cut {
            drop((from, listener));
            assert!(!client.wait().expect("it ends").success());
            return false;
        }
        if now {
            client.kill().expect("it runs");
            client.wait().expect("it ends");
            return false;
        }
    }
    assert!(client.wait().expect("it ends").success());
    true
}

#[test]
fn a_client_that_is_killed_anywhere_leaves_the_old_links_or_the_new_ones() {
    let folder = folder("apply-killed");
    let host = Host::start(&folder);
    let first = bundle(&folder, "first.toml", "<first_>", 'q', "");
    let second = bundle(&folder, "second.toml", "<second>", 'x', "on_error = \"permit\"\n");
    let versions = folder.join("versions");
    let whole = |bundle: &Path| {
        host.run(&[Path::new("apply"), bundle, Path::new("--versions"), &versions]).ok();
    };
    whole(&first);
    let clean = counts(&host);
    let (mut olds, mut news) = (0, 0);
    'all: for at in 0.. {
        for before in [true, false] {
            let words = [Path::new("apply"), &second, Path::new("--versions"), &versions];
            if killed(&host, &folder, &words, at, before) {
                break 'all;
            }
            let runs = behaviour(&host);
            olds += usize::from(runs == old());
            news += usize::from(runs == new());
            assert!(runs == old() || runs == new(), "killed around change {at}: {runs:?}");
            whole(&first);
            assert_eq!(
                (behaviour(&host), counts(&host)),
                (old(), clean),
                "after change {at} nothing is left behind"
            );
        }
    }
    println!("killed {} times: {olds} left the old links, {news} the new ones", olds + news);
    assert!(olds > 10 && news > 2, "{olds} {news}");
    assert_eq!((behaviour(&host), counts(&host)), (new(), clean), "the one that was not killed");
}

#[test]
fn what_ran_before_can_be_gone_back_to_wherever_a_client_lost_its_host() {
    let folder = folder("apply-cut");
    let host = Host::start(&folder);
    let first = bundle(&folder, "first.toml", "<first_>", 'q', "");
    let second = bundle(&folder, "second.toml", "<second>", 'x', "on_error = \"permit\"\n");
    let versions = folder.join("versions");
    let with_versions = |words: &[&Path]| {
        host.run(&[words, &[Path::new("--versions"), &versions]].concat()).ok();
    };
    let mut news = 0;
    for at in 0.. {
        // Nothing to go back to is left of the last time.
        let _ = fs::remove_dir_all(&versions);
        with_versions(&[Path::new("apply"), &second]);
        let _ = fs::remove_dir_all(&versions);
        with_versions(&[Path::new("apply"), &first]);
        let words = [Path::new("apply"), &second, Path::new("--versions"), &versions];
        if fails(&host, &folder, &words, at, Fate::Cut) {
            break;
        }
        if behaviour(&host) == new() {
            news += 1;
            with_versions(&[Path::new("rollback")]);
        }
        assert_eq!(behaviour(&host), old(), "cut off at change {at}");
    }
    assert!(news > 1, "{news}");
}

#[test]
fn clients_that_come_at_once_come_one_after_the_other() {
    let folder = folder("apply-many");
    let host = Host::start(&folder);
    let first = bundle(&folder, "first.toml", "<first_>", 'q', "");
    let second = bundle(&folder, "second.toml", "<second>", 'x', "");
    let versions = folder.join("versions");
    thread::scope(|scope| {
        for bundle in [&first, &second, &first, &second] {
            let (socket, versions) = (&host.socket, &versions);
            scope.spawn(move || {
                for _ in 0..4 {
                    let mut apply = tidegate();
                    apply.arg("--host").arg(socket).arg("apply").arg(bundle).arg("--versions").arg(versions);
                    Ran::of(&mut apply).ok();
                }
            });
        }
    });
    let one = behaviour(&host);
    assert!(one == old() || one == new(), "{one:?}");
    host.run(&[Path::new("rollback"), Path::new("--versions"), &versions]).ok();
    let other = behaviour(&host);
    assert!((other == old() || other == new()) && other != one, "{other:?}");
}

/// The files in `folder` and below, and what is in them; sockets are none.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.is_file() {
            let bytes = fs::read(&path).expect("a file");
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

#[test]
fn a_dry_run_asks_for_no_change_and_writes_no_file() {
    let folder = folder("apply-dry");
    let host = Host::start(&folder);
    let first = bundle(&folder, "first.toml", "<first_>", 'q', "");
    let second = bundle(&folder, "second.toml", "<second>", 'x', "on_error = \"permit\"\n");
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    let versions = folder.join("versions");
    let kept = ["--versions", versions.to_str().unwrap()];
    // It would be killed at its first change.
    let changes_nothing =
        |words: &[&str]| assert!(killed(&host, &folder, words, 0, true), "{words:?} asks for a change");
    let before = files(&folder);
    changes_nothing(&[&["apply", first, "--dry-run"], &kept[..]].concat());
    changes_nothing(&["diff", first]);
    assert_eq!(files(&folder), before, "nothing was kept either");

    for bundle in [first, second] {
        host.run(&[&["apply", bundle], &kept[..]].concat()).ok();
    }
    let before = files(&folder);
    changes_nothing(&[&["apply", first, "--dry-run"], &kept[..]].concat());
    changes_nothing(&[&["rollback", "--dry-run"], &kept[..]].concat());
    assert_eq!(files(&folder), before);
    assert!(!killed(&host, &folder, &[&["rollback"], &kept[..]].concat(), 0, true), "that one does change");
}
