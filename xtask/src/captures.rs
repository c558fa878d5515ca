//! Records `examples/captures/`: real clients and servers of Debian talking over loopback, seen by tcpdump.
//!
//! Everything runs in a network namespace made for it, so that the servers have ports 53, 80 and 443 whatever else
//! this machine does, no other traffic gets in, and nothing can leave. Keys are made for one run and thrown away.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::setup;
use crate::shell::{self, Background};

/// One capture file and the commands whose traffic it holds, as one would type them in a shell.
struct Recording {
    file: &'static str,
    shows: &'static str,
    commands: &'static [&'static str],
}

const RECORDINGS: &[Recording] = &[
    Recording {
        file: "tls13.pcap",
        shows: "TLS 1.3 over IPv4: three connections, three server names",
        commands: &[
            "curl -sk --tlsv1.3 --connect-to ::127.0.0.1: https://www.example.com/",
            "curl -sk --tlsv1.3 --connect-to ::127.0.0.1: https://api.example.net/v1/status",
            "curl -sk --tlsv1.3 --connect-to ::127.0.0.1: https://ads.example.org/pixel",
        ],
    },
    Recording {
        file: "tls12-ipv6.pcap",
        shows: "TLS 1.2 over IPv6: a server name as typed (mixed case), then another",
        commands: &[
            "echo | openssl s_client -tls1_2 -connect [::1]:443 -servername WWW.Example.COM",
            "echo | openssl s_client -tls1_2 -connect [::1]:443 -servername ads.example.org",
        ],
    },
    Recording {
        file: "tls-no-sni.pcap",
        shows: "TLS 1.3 and 1.2 without a server name",
        commands: &[
            "curl -sk --tlsv1.3 https://127.0.0.1/",
            "echo | openssl s_client -tls1_2 -connect 127.0.0.1:443 -noservername",
        ],
    },
    Recording {
        file: "tls-large-hello.pcap",
        shows: "a ClientHello of several TCP segments: 400 ALPN names before the handshake goes on",
        commands: &["echo | openssl s_client -tls1_3 -connect 127.0.0.1:443 -servername www.example.com \
             -alpn http/1.1,$(seq -s, -f protocol-%03g 400)"],
    },
    Recording {
        file: "tls-many-records.pcap",
        shows: "a ClientHello cut over several TLS records of 512 bytes",
        commands: &["echo | openssl s_client -tls1_3 -connect 127.0.0.1:443 -servername ads.example.org \
             -max_send_frag 512 -alpn http/1.1,$(seq -s, -f protocol-%03g 100)"],
    },
    Recording {
        file: "tls-resumed.pcap",
        shows: "a TLS 1.3 session, then a second connection that resumes it (pre-shared key in the ClientHello)",
        commands: &[
            "(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 0.2) | openssl s_client -quiet -tls1_3 -connect 127.0.0.1:443 \
             -servername www.example.com -sess_out session.pem",
            "echo | openssl s_client -tls1_3 -connect 127.0.0.1:443 -servername www.example.com -sess_in session.pem",
        ],
    },
    Recording {
        file: "http-get.pcap",
        shows: "one HTTP/1.1 GET over IPv4",
        commands: &["curl -s --connect-to ::127.0.0.1: http://www.example.com/index.html"],
    },
    Recording {
        file: "http-get-ipv6.pcap",
        shows: "one HTTP/1.1 GET over IPv6",
        commands: &["curl -s --connect-to '::[::1]:' http://www.example.com/index.html"],
    },
    Recording {
        file: "http-keepalive.pcap",
        shows: "four requests on one connection, the third one with a query of 300 bytes",
        commands: &[
            "curl -s --connect-to ::127.0.0.1: http://www.example.com/one http://www.example.com/two \
             http://www.example.com/three?q=$(printf %0300d 3) http://www.example.com/four",
        ],
    },
    Recording {
        file: "http-post.pcap",
        shows: "POST bodies: a short one that looks like a header, one of 4,000 bytes, one sent in chunks",
        commands: &[
            "printf 'X-Tidegate: not a header\\r\\n\\r\\nGET / HTTP/1.1\\r\\n' | \
             curl -s --connect-to ::127.0.0.1: --data-binary @- http://www.example.com/form",
            "printf %04000d 7 | \
             curl -s --connect-to ::127.0.0.1: -H Expect: --data-binary @- http://www.example.com/upload",
            "printf 'in chunks' | curl -s --connect-to ::127.0.0.1: -H Expect: \
             -H 'Transfer-Encoding: chunked' --data-binary @- http://www.example.com/chunked",
        ],
    },
    Recording {
        file: "http-headers.pcap",
        shows: "requests with an empty header, one of 200 bytes, one of 3,000 bytes, and thirty headers",
        commands: &[
            "curl -s --connect-to ::127.0.0.1: -H 'X-Empty;' http://www.example.com/empty",
            "curl -s --connect-to ::127.0.0.1: -H \"X-Long: $(printf %0200d 1)\" http://www.example.com/long",
            "curl -s --connect-to ::127.0.0.1: -H \"Cookie: id=$(printf %03000d 1)\" http://www.example.com/longer",
            "curl -s --connect-to ::127.0.0.1: $(seq -f '-HX-Header-%g:%g' 30) http://www.example.com/many",
        ],
    },
    Recording {
        file: "http-pipelined.pcap",
        shows: "three requests sent before the first answer",
        commands: &["printf 'GET /a HTTP/1.1\\r\\nHost: www.example.com\\r\\n\\r\\n\
             GET /b HTTP/1.1\\r\\nHost: www.example.com\\r\\n\\r\\n\
             GET /c HTTP/1.1\\r\\nHost: www.example.com\\r\\nConnection: close\\r\\n\\r\\n' | nc.openbsd 127.0.0.1 80"],
    },
    Recording {
        file: "http-slow.pcap",
        shows: "one request in four segments, cut inside the method, a header name and the final blank line",
        commands: &["(printf GE; sleep 0.05; printf 'T /slow HTTP/1.1\\r\\nHo'; sleep 0.05; \
             printf 'st: www.example.com\\r\\nConnection: close\\r\\n\\r'; sleep 0.05; printf '\\n') | \
             nc.openbsd 127.0.0.1 80"],
    },
    Recording {
        file: "dns-udp.pcap",
        shows: "DNS over UDP and IPv4: A, AAAA, TXT, with and without EDNS, mixed case, many labels, no such name",
        commands: &[
            "dig @127.0.0.1 www.example.com A",
            "dig @127.0.0.1 www.example.com AAAA",
            "dig @127.0.0.1 +noedns www.example.com A",
            "dig @127.0.0.1 +bufsize=4096 +nocookie www.example.com TXT",
            "dig @127.0.0.1 ads.example.org A",
            "dig @127.0.0.1 AdS.eXaMpLe.OrG A",
            "dig @127.0.0.1 a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.example.com A",
            "dig @127.0.0.1 $(printf %063d 1).$(printf %063d 2).$(printf %063d 3).example.com A",
            "dig @127.0.0.1 nowhere.example.com A",
        ],
    },
    Recording {
        file: "dns-udp-ipv6.pcap",
        shows: "DNS over UDP and IPv6",
        commands: &["dig @::1 www.example.com AAAA", "dig @::1 ads.example.org A"],
    },
    Recording {
        file: "dns-tcp.pcap",
        shows: "DNS over TCP: two questions on one connection, then one over IPv6",
        commands: &[
            "dig @127.0.0.1 +tcp +keepopen www.example.com A ads.example.org A",
            "dig @::1 +tcp www.example.com TXT",
        ],
    },
    Recording {
        file: "smtp-starttls.pcap",
        shows: "SMTP: a mail of curl's behind STARTTLS, openssl's STARTTLS, a mail of curl's in clear text",
        commands: &[
            "printf 'From: a@example.com\\r\\n\\r\\nbehind TLS\\r\\n' | curl -sk --ssl-reqd -T - --mail-from a@example.com \
             --mail-rcpt b@example.com smtp://127.0.0.1:587/client.example.com",
            "(sleep 0.2; printf 'QUIT\\r\\n'; sleep 0.2) | openssl s_client -quiet -starttls smtp -connect 127.0.0.1:587 \
             -name client.example.com",
            "printf 'From: a@example.com\\r\\n\\r\\nin the clear\\r\\n' | curl -s -T - --mail-from a@example.com \
             --mail-rcpt b@example.com smtp://127.0.0.1:587/client.example.com",
        ],
    },
    Recording {
        file: "quic.pcap",
        shows: "QUIC and HTTP/3: version 1, the same resumed with early data (0-RTT), a draft of version 2, and a version that the \
                server does not know (version negotiation)",
        commands: &[
            "gtlsclient -q --exit-on-all-streams-close --session-file session --tp-file parameters 127.0.0.1 443 \
             https://www.example.com/",
            "gtlsclient -q --exit-on-all-streams-close --session-file session --tp-file parameters 127.0.0.1 443 \
             https://www.example.com/",
            "gtlsclient -q --exit-on-all-streams-close -v v2draft 127.0.0.1 443 https://www.example.com/",
            "gtlsclient -q --exit-on-all-streams-close -v 0x0a0a0a0a 127.0.0.1 443 https://www.example.com/",
        ],
    },
];

/// Runs `cargo xtask captures` once more inside a network namespace of its own.
pub(crate) fn enter_namespace(files: &[String]) -> Result<()> {
    for file in files {
        ensure!(RECORDINGS.iter().any(|recording| recording.file == file), "there is no recording {file}");
    }
    setup::need(&[&setup::CAPTURES])?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--fork", "--kill-child"]);
    if shell::output(Command::new("id").arg("-u"))?.trim() != "0" {
        unshare.arg("--map-root-user");
    }
    shell::run(unshare.arg(std::env::current_exe()?).args(["captures", "--inside"]).args(files))
}

/// Starts the servers, makes the recordings of these names, or all, and writes the folder's README. Call it inside the namespace only.
pub(crate) fn record_all(files: &[String]) -> Result<()> {
    // An Ethernet's packet size and no segmentation offload: what a real interface would show.
    shell::run(&mut shell::command(&["ip", "link", "set", "lo", "up", "mtu", "1500", "gso_max_segs", "1"]))?;

    let scratch = Scratch::new()?;
    make_certificate(&scratch.0)?;
    let _nginx = start_nginx(&scratch.0)?;
    let _dnsmasq = start_dnsmasq()?;
    let _aiosmtpd = start_aiosmtpd(&scratch.0)?;
    let _gtlsserver = start_gtlsserver(&scratch.0)?;
    for address in [
        "127.0.0.1:80",
        "[::1]:80",
        "127.0.0.1:443",
        "[::1]:443",
        "127.0.0.1:53",
        "[::1]:53",
        "127.0.0.1:587",
    ] {
        wait_for_server(address)?;
    }

    let folder = folder();
    let wanted = |recording: &&Recording| files.is_empty() || files.iter().any(|file| file == recording.file);
    for recording in RECORDINGS.iter().filter(wanted) {
        record(recording, &scratch.0, &folder)?;
        println!("{}: {} bytes", recording.file, fs::metadata(folder.join(recording.file))?.len());
    }
    fs::write(folder.join("README.md"), readme(&folder)?)?;
    Ok(())
}

fn folder() -> PathBuf {
    shell::root().join("examples/captures")
}

/// A temporary folder that goes away with this value, keys and all.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let made = shell::output(&mut shell::command(&["mktemp", "--directory"]))?;
        Ok(Self(PathBuf::from(made.trim())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing to be done about a folder that refuses to go, beyond what the system does with temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn make_certificate(scratch: &Path) -> Result<()> {
    let words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                 -subj /CN=example.com -keyout key.pem -out certificate.pem";
    shell::output(Command::new("sh").args(["-c", words]).current_dir(scratch))?;
    Ok(())
}

fn start_nginx(scratch: &Path) -> Result<Background> {
    let configuration = scratch.join("nginx.conf");
    let at = scratch.display();
    fs::write(
        &configuration,
        format!(
            "daemon off; master_process off; pid {at}/nginx.pid; error_log stderr warn;\n\
             events {{ worker_connections 64; }}\n\
             http {{\n\
               access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
               fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
               server {{\n\
                 listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;\n\
                 ssl_certificate {at}/certificate.pem; ssl_certificate_key {at}/key.pem;\n\
                 ssl_protocols TLSv1.2 TLSv1.3;\n\
                 default_type text/plain;\n\
                 location / {{ return 200 \"$request_method $host$uri\\n\"; }}\n\
               }}\n\
             }}\n"
        ),
    )?;
    Background::start(Command::new("/usr/sbin/nginx").arg("-c").arg(&configuration).arg("-p").arg(scratch))
}

fn start_dnsmasq() -> Result<Background> {
    Background::start(Command::new("/usr/sbin/dnsmasq").args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--group=root",
        "--no-hosts",
        "--no-resolv",
        "--listen-address=127.0.0.1,::1",
        "--bind-interfaces",
        "--local=/example.com/example.org/",
        "--host-record=www.example.com,192.0.2.10,2001:db8::10",
        "--host-record=ads.example.org,192.0.2.66,2001:db8::66",
        "--host-record=a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.example.com,192.0.2.11",
        "--txt-record=www.example.com,tides rise and fall,twice a day",
    ]))
}

/// Takes mail with and without TLS, and throws it away.
fn start_aiosmtpd(scratch: &Path) -> Result<Background> {
    Background::start(
        Command::new("/usr/bin/aiosmtpd")
            .args(["--nosetuid", "--listen", "127.0.0.1:587", "--no-requiretls"])
            .args([
                "--class",
                "aiosmtpd.handlers.Sink",
                "--tlscert",
                "certificate.pem",
                "--tlskey",
                "key.pem",
            ])
            .current_dir(scratch),
    )
}

/// QUIC, and HTTP/3 over it, on UDP port 443.
fn start_gtlsserver(scratch: &Path) -> Result<Background> {
    fs::create_dir(scratch.join("www"))?;
    fs::write(scratch.join("www/index.html"), "over QUIC\n")?;
    let mut server = Command::new("/usr/sbin/gtlsserver");
    let arguments = ["--quiet", "--htdocs", "www", "127.0.0.1", "443", "key.pem", "certificate.pem"];
    let server = Background::start(server.args(arguments).current_dir(scratch))?;
    // Nobody can connect to see whether it is there.
    wait_for("QUIC server", || {
        fs::read_to_string("/proc/net/udp").is_ok_and(|sockets| sockets.contains(":01BB "))
    })?;
    Ok(server)
}

fn wait_for_server(address: &str) -> Result<()> {
    wait_for(&format!("server on {address}"), || TcpStream::connect(address).is_ok())
}

fn wait_for(what: &str, is_there: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_there() {
        if Instant::now() > deadline {
            bail!("there is no {what} after ten seconds");
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn record(recording: &Recording, scratch: &Path, folder: &Path) -> Result<()> {
    let file = scratch.join(recording.file);
    let mut tcpdump = Background::start(
        Command::new("/usr/bin/tcpdump")
            .args([
                "--interface=lo",
                "--immediate-mode",
                "--packet-buffered",
                "--relinquish-privileges=root",
                "-w",
            ])
            .arg(&file),
    )?;
    let mut lines = BufReader::new(tcpdump.stderr().context("tcpdump's standard error is taken")?).lines();
    // tcpdump says this once the capture runs; a client started before would lose its first packets.
    if !lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening on")) {
        bail!("tcpdump did not start to listen");
    }
    for command in recording.commands {
        shell::output(Command::new("sh").args(["-c", command]).current_dir(scratch))?;
    }
    // The client is gone when its command returns, but the last ACKs of the teardown may still be on their way.
    sleep(Duration::from_millis(200));
    tcpdump.interrupt()?;
    fs::copy(&file, folder.join(recording.file))?;
    Ok(())
}

fn readme(folder: &Path) -> Result<String> {
    let mut text = "# Captures of real programs\n\n\
         Made by `cargo xtask captures`; run it to make them anew, or one with its name. Each was recorded by tcpdump on\n\
         the loopback interface of a network namespace without any other traffic (MTU 1500, no segmentation offload), so\n\
         the servers have their real ports: nginx on TCP 80 and 443, dnsmasq on UDP and TCP 53, aiosmtpd on TCP 587 and\n\
         gtlsserver on UDP 443. The TLS key was made for the run and thrown away. Loopback leaves checksums to an offload\n\
         that never happens: the TCP and UDP checksums in these files are not valid, as in many captures of an outgoing\n\
         interface.\n\n\
         Programs, all from Debian packages:\n\n"
        .to_owned();
    for (program, version) in [
        ("curl", "curl --version | head -n 1 | cut -d' ' -f1-2"),
        ("openssl", "openssl version"),
        ("dig", "dig -v 2>&1"),
        ("nc", "dpkg-query --show --showformat='netcat-openbsd ${Version}' netcat-openbsd"),
        ("nginx", "/usr/sbin/nginx -v 2>&1"),
        ("dnsmasq", "/usr/sbin/dnsmasq --version | head -n 1 | cut -d' ' -f1-3"),
        ("aiosmtpd", "dpkg-query --show --showformat='python3-aiosmtpd ${Version}' python3-aiosmtpd"),
        ("gtlsclient, gtlsserver", "dpkg-query --show --showformat='ngtcp2 ${Version}' ngtcp2-client"),
        ("tcpdump", "tcpdump --version 2>&1 | head -n 1"),
    ] {
        let version = shell::output(Command::new("sh").args(["-c", version]))?;
        text += &format!("- {program}: {}\n", version.trim());
    }
    text += "\nAddresses and names are those set aside for documentation; `ads.example.org` is the one that the\n\
             examples block.\n";
    for recording in RECORDINGS {
        let (shows, day) = (capitalised(recording.shows), day(&folder.join(recording.file))?);
        text += &format!("\n## {}\n{shows}. Recorded on {day}.\n```sh\n", recording.file);
        for command in recording.commands {
            text += &format!("{command}\n");
        }
        text += "```\n";
    }
    Ok(text)
}

/// The day on which a capture was recorded: that of its first packet, whose time in seconds stands behind the header of the file.
fn day(capture: &Path) -> Result<String> {
    let bytes = fs::read(capture)?;
    let seconds = bytes.get(24..28).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let seconds = seconds.with_context(|| format!("{}: there is no packet in it", capture.display()))?;
    let day =
        shell::output(&mut shell::command(&["date", "--utc", "+%Y-%m-%d", &format!("--date=@{seconds}")]))?;
    Ok(day.trim().to_owned())
}

fn capitalised(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_holds_every_recording_and_nothing_else() {
        let mut found: Vec<_> = fs::read_dir(folder())
            .expect("examples/captures is there")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("a plain name"))
            .filter(|name| name != "README.md")
            .collect();
        let mut listed: Vec<_> = RECORDINGS.iter().map(|recording| recording.file.to_owned()).collect();
        found.sort();
        listed.sort();
        assert_eq!(found, listed);
    }
}
