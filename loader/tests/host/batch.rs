//! Commands from a file: one after the other, or all at once and then not by halves.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::apply::{behaviour, counts, killed};
use crate::common::{GATE, Host, folder, tidegate};

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text.replace("GATE", GATE)).expect("a file");
    path
}

fn words(path: &Path, atomic: bool) -> Vec<&str> {
    let mut words = vec!["-j", "batch", path.to_str().expect("text")];
    words.extend(atomic.then_some("--atomic"));
    words
}

/// The documents of a batch, line by line.
fn documents(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("a document")).collect()
}

#[test]
fn commands_run_one_after_the_other_until_one_fails() {
    let folder = folder("batch");
    let host = Host::start(&folder);
    let good = file(
        &folder,
        "good",
        "# comments, and empty lines\n\n\
         prog load 'GATE' --prog stamp --map \"marks.0=str:<first_>\"  # quotes as in a shell\n\
         link attach stamp stream-v4\n",
    );
    let said = documents(&host.run(&words(&good, false)).ok());
    assert_eq!((&said[0]["line"], &said[1]["line"], &said[2]["commands"]), (&3.into(), &4.into(), &2.into()));
    assert_eq!(said[1]["command"], serde_json::json!(["link", "attach", "stamp", "stream-v4"]));
    let link = &said[1]["result"]["links"][0]["id"];
    assert_eq!(&host.run(&["-j", "link", "show"]).json()["links"][0]["id"], link);
    assert_eq!(behaviour(&host).0, "<first_>");

    let bad =
        file(&folder, "bad", "map update marks 0 'str:<second>'\nmap update nothing 0 1\nlink detach 1\n");
    let ran = host.run(&words(&bad, false));
    let said = documents(&ran.out);
    let error = &said[1]["error"];
    assert_eq!((ran.exit, said.len(), &error["code"]), (6, 2, &"not-found".into()), "{}", ran.out);
    assert!(error["message"].as_str().unwrap().contains("bad:2: `map update nothing 0 1`: "), "{error}");
    assert_eq!(behaviour(&host).0, "<second>", "what stood in front of it was done");
    let first = file(&folder, "first", "map update nothing 0 1\n");
    assert_eq!(host.run(&words(&first, false)).exit, 5, "nothing was done: it ends as the command does");

    for (text, part) in [
        ("map update marks 0 str:no\nmap upgrade marks 0 1", ":2: "),
        ("map update marks 0 str:no\nmap update marks 'str:no", ":2: "),
        ("map update marks 0 str:no\n-j map show", ":2: "),
        ("map update marks 0 str:no\n\nproxy --listen 127.0.0.1:0", ":3: "),
        ("map update marks 0 str:no\nbatch other", ":2: "),
        ("map update marks 0 str:no\nprog stats --watch", ":2: "),
    ] {
        let ran = host.run(&words(&file(&folder, "wrong", text), false));
        assert_eq!(ran.exit, 1, "{text}");
        assert!(ran.json()["error"]["message"].as_str().unwrap().contains(part), "{}", ran.out);
        assert_eq!(behaviour(&host).0, "<second>", "nothing runs of what can't be read to its end");
    }

    let mut typed = tidegate()
        .arg("--host")
        .arg(&host.socket)
        .args(["batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    typed.stdin.take().expect("piped").write_all(b"map update marks 0 'str:<third_>'\n").expect("it reads");
    let output = typed.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n1 command\n");
    assert_eq!(behaviour(&host).0, "<third_>");
}

/// A host that marks and cuts, with the ids of its two links.
fn start(folder: &Path) -> (Host, String, String) {
    let host = Host::start(folder);
    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=0"]).ok();
    host.run(&["prog", "load", GATE, "--prog", "stamp", "--map", "marks.0=str:<first_>"]).ok();
    let attach = |program: &str, priority: &str| {
        let said = host.run(&["-j", "link", "attach", program, "stream-v4", "--priority", priority]).json();
        said["links"][0]["id"].to_string()
    };
    let (cut, stamp) = (attach("cut", "1"), attach("stamp", "2"));
    (host, cut, stamp)
}

/// The batch that puts others in their place.
fn change(cut: &str, stamp: &str) -> String {
    format!(
        "map create marked --types GATE --like marks\n\
         map update marked 0 'str:<second>'\n\
         prog load GATE --prog stamp --name stamp2 --map marks=marked\n\
         prog load GATE --prog cut --name cut2 --map cuts.120=0\n\
         link detach {stamp}\n\
         link replace {cut} cut2\n\
         link attach stamp2 stream-v4 --priority 2\n\
         prog unload cut\n\
         prog unload stamp\n\
         map release marked\n"
    )
}

#[test]
fn all_at_once_the_new_takes_the_place_of_the_old() {
    let folder = folder("batch-atomic");
    let (host, cut, stamp) = start(&folder);
    let before = counts(&host);
    assert_eq!(behaviour(&host), ("<first_>".into(), vec!['q']));
    let batch = file(&folder, "change", &change(&cut, &stamp));
    let said = documents(&host.run(&words(&batch, true)).ok());
    assert_eq!((said.len(), &said[10]["atomic"]), (11, &true.into()));
    assert_eq!(said[5]["result"]["links"][0]["id"].to_string(), cut, "{}", said[5]);
    assert_eq!(behaviour(&host), ("<second>".into(), vec!['x']));
    assert_eq!(counts(&host), before, "what went is gone");

    let ran = host.run(&words(&file(&folder, "read", "prog show\n"), true));
    assert_eq!((ran.exit, &ran.json()["error"]["code"]), (1, &"batch-verb".into()));
}

#[test]
fn when_a_line_fails_nothing_has_changed() {
    let folder = folder("batch-refused");
    let (host, cut, stamp) = start(&folder);
    let before =
        (behaviour(&host), counts(&host), host.run(&["-j", "link", "show"]).json()["links"][0].clone());
    for (wrong, exit, code) in [
        ("map update cuts 113 1", 1, "batch-map"),
        ("prog unload nobody", 5, "not-found"),
        ("prog load GATE --prog nothing", 5, "program-unknown"),
        ("prog load GATE --name both", 1, "program-several"),
        ("link attach 77777", 5, "not-found"),
        ("link detach 77777", 5, "not-found"),
        ("link replace 77777 stamp2", 5, "not-found"),
        ("link attach cut2 stream-v4 --budget 1", 2, "program-refused"),
        ("link order CUT --before STAMP", 1, "batch-order"),
        ("prog unload cut2", 1, "batch-busy"),
        ("map create big --kind array --value 65536 --entries 1000000", 1, "map-definition"),
    ] {
        let wrong = wrong.replace("CUT", &cut).replace("STAMP", &stamp);
        // In front of all others, where it is about what was there before.
        let text = match code {
            "batch-map" => format!("{wrong}\n{}", change(&cut, &stamp)),
            _ => format!("{}{wrong}\n", change(&cut, &stamp)),
        };
        let text = file(&folder, "change", &text);
        let ran = host.run(&words(&text, true));
        let error = ran.json()["error"].clone();
        assert_eq!((ran.exit, &error["code"]), (exit, &code.into()), "{wrong}: {error}");
        let links = host.run(&["-j", "link", "show"]).json();
        let now = (behaviour(&host), counts(&host), links["links"][0].clone());
        assert_eq!(
            (&now.0, &now.1, &now.2["program"]),
            (&before.0, &before.1, &before.2["program"]),
            "{wrong}"
        );
    }
}

#[test]
fn a_client_that_is_killed_anywhere_in_a_batch_leaves_the_old_links_or_the_new_ones() {
    let folder = folder("batch-killed");
    let (mut olds, mut news) = (0, 0);
    'all: for at in 0.. {
        for before in [true, false] {
            let host_folder = folder.join("host");
            let _ = fs::remove_dir_all(&host_folder);
            fs::create_dir_all(&host_folder).expect("a folder");
            let (host, cut, stamp) = start(&host_folder);
            let batch = file(&folder, "change", &change(&cut, &stamp));
            let ended = killed(&host, &folder, &words(&batch, true), at, before);
            let runs = behaviour(&host);
            let (old, new) = (("<first_>".to_string(), vec!['q']), ("<second>".to_string(), vec!['x']));
            assert!(runs == old || runs == new, "killed around change {at}: {runs:?}");
            if ended {
                assert_eq!(runs, new);
                break 'all;
            }
            olds += usize::from(runs == old);
            news += usize::from(runs == new);
        }
    }
    println!("killed {} times: {olds} left the old links, {news} the new ones", olds + news);
    assert!(olds > 10 && news > 2, "{olds} {news}");
}
