//! `cargo xtask demo`: policies in C and in Rust, verified and run over captures of real programs.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::programs;
use crate::setup;
use crate::shell;

/// A call of `tidegate`, what to look for in what it prints, and a part of that: the demo fails without it.
struct Act {
    title: &'static str,
    look: &'static str,
    expects: &'static str,
    words: &'static [&'static str],
}

const ACTS: &[Act] = &[
    Act {
        title: "A policy is proven before it runs",
        look: "the most instructions that one run can take, whatever a client sends",
        expects: "1 accepted, 0 refused",
        words: &["verify", "target/programs/tls_sni_allow.o"],
    },
    Act {
        title: "TLS: curl asks for three names, the policy (C) allows two domains",
        look: "the connection to ads.example.org is dropped, the other two pass",
        expects: "3 connections, 1 dropped",
        words: &[
            "prog",
            "run",
            "target/programs/tls_sni_allow.o",
            "--pcap",
            "examples/captures/tls13.pcap",
            "--map",
            "allowed.example.com=1",
            "--map",
            "allowed.example.net=1",
        ],
    },
    Act {
        title: "The same policy in Rust, on TLS 1.2 over IPv6",
        look: "WWW.Example.COM passes, ads.example.org is dropped",
        expects: "2 connections, 1 dropped",
        words: &[
            "prog",
            "run",
            "target/programs/tls_sni_allow-rs.o",
            "--pcap",
            "examples/captures/tls12-ipv6.pcap",
            "--map",
            "allowed.example.com=1",
        ],
    },
    Act {
        title: "HTTP: every request gets a header, and the capture of what left is written",
        look: "four requests on one connection, all four edited",
        expects: "4 edited",
        words: &[
            "prog",
            "run",
            "target/programs/http_hdr_rewrite.o",
            "--pcap",
            "examples/captures/http-keepalive.pcap",
            "--pcap-out",
            REWRITTEN,
            "--map",
            "header.0=X-Via: tidegate",
        ],
    },
    Act {
        title: "DNS: queries for one name are not sent",
        look: "dig's two queries for ads.example.org are blocked, and one for a name too long for the list",
        expects: "6 packets sent, 3 blocked",
        words: &[
            "prog",
            "run",
            "target/programs/dns_filter.o",
            "--pcap",
            "examples/captures/dns-udp.pcap",
            "--map",
            "rules.ads.example.org=[\"u32:1\", \"str:\"]",
        ],
    },
];

const REWRITTEN: &str = "target/demo/http-rewritten.pcap";

/// Shows every act, then reads the rewritten capture back with a program that is not ours.
pub(crate) fn run() -> Result<()> {
    setup::need(&[&setup::POLICIES, &setup::READERS])?;
    programs::build()?;
    fs::create_dir_all(shell::root().join("target/demo"))?;
    println!("Building tidegate: a minute or two the first time.");
    shell::run(&mut shell::command(&["cargo", "build", "--locked", "--package", "tidegate"]))?;
    for (number, act) in (1..).zip(ACTS) {
        println!("\n{number}. {}\n   See: {}.\n", act.title, act.look);
        println!("$ tidegate {}", quoted(act.words));
        let mut tidegate =
            shell::command(&["cargo", "run", "--locked", "--quiet", "--package", "tidegate", "--"]);
        let text = shell::output(tidegate.args(act.words))?;
        print!("{text}");
        if !text.contains(act.expects) {
            bail!("this should have said \"{}\"", act.expects);
        }
    }
    read_back(Path::new(REWRITTEN))
}

/// Has tcpdump find the header in what the HTTP client sent, once for each of the four requests, and all checksums right.
fn read_back(capture: &Path) -> Result<()> {
    println!("\n{}. The rewritten capture, read back by tcpdump\n", ACTS.len() + 1);
    let mut tcpdump = shell::command(&["tcpdump", "-n", "-vv", "-r"]);
    let text = shell::output(tcpdump.arg(capture).arg("dst port 80"))?;
    println!("$ {}", shell::shown(&tcpdump));
    let mut found = 0;
    for line in text.lines().map(str::trim) {
        if let Some(request) = line.strip_prefix("GET ") {
            println!("  GET {}", request.replace(&"0".repeat(250), "0..."));
        } else if line == "X-Via: tidegate" {
            println!("  {line}");
            found += 1;
        }
    }
    if found != 4 {
        bail!("tcpdump finds the header {found} times in {}, not once for each request", capture.display());
    }
    if text.contains("incorrect") {
        bail!("tcpdump finds a wrong checksum in {}", capture.display());
    }
    println!("\nThe header is in all four requests, and every checksum is right.");
    Ok(())
}

/// The words as one would type them in a shell.
fn quoted(words: &[&str]) -> String {
    let quote = |word: &&str| {
        if word.contains([' ', '"']) { format!("'{word}'") } else { (*word).to_owned() }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        assert_eq!(quoted(&["a", "b=[\"c\", 1]"]), "a 'b=[\"c\", 1]'");
    }
}
