//! Mistakes in real policies are found, and what their authors are shown is kept: `loader/tests/planted/NAME.txt`.
//!
//! With `TIDEGATE_BLESS=1` in the environment the texts are written anew, to be read before they are committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LOADER: &str = env!("CARGO_MANIFEST_DIR");

/// One mistake: in which policy, what it makes of which text, and the code that it is refused with.
struct Mistake {
    name: &'static str,
    source: &'static str,
    from: &'static str,
    to: &'static str,
    code: &'static str,
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "a bounds check is missing",
        source: "tls_sni_allow/tls_sni_allow.c",
        from: "!is_shown(BEHIND(entry), data_end) || ",
        to: "",
        code: "TG0303",
    },
    Mistake {
        name: "a bounds check is too short",
        source: "dns_filter/dns_filter.c",
        from: "data + QNAME > end",
        to: "data + UDP_HEADER > end",
        code: "TG0303",
    },
    Mistake {
        name: "a reservation may have failed",
        source: "tls_sni_allow/tls_sni_allow.c",
        from: "    if (event) {\n",
        to: "    {\n",
        code: "TG0302",
    },
    Mistake {
        name: "a record is kept",
        source: "tls_sni_allow/tls_sni_allow.c",
        from: "        bpf_ringbuf_submit(event, 0);\n",
        to: "",
        code: "TG0501",
    },
    Mistake {
        name: "a record is used behind its end",
        source: "tls_sni_allow/tls_sni_allow.c",
        from: "bpf_ringbuf_submit(event, 0);\n",
        to: "bpf_ringbuf_submit(event, 0);\n        event->flow_id = 0;\n",
        code: "TG0502",
    },
    Mistake {
        name: "a name is longer than its room",
        source: "tls_sni_allow/tls_sni_allow.c",
        from: " || size > LONGEST)\n            break;\n        kept = size < KEPT ? size : KEPT;",
        to: ")\n            break;\n        kept = size;",
        code: "TG0403",
    },
    Mistake {
        name: "a size has no bound",
        source: "dns_filter/dns_filter.c",
        from: "    if (room > NAME)\n        room = NAME;\n",
        to: "",
        code: "TG0403",
    },
    Mistake {
        name: "a clone is lost",
        source: "dns_filter/dns_filter.c",
        from: "        tidegate_clone_discard(clone);\n",
        to: "",
        code: "TG0501",
    },
    Mistake {
        name: "a verdict is none",
        source: "dns_filter/dns_filter.c",
        from: "        count(PASS);\n        return TIDEGATE_CONTINUE;",
        to: "        count(PASS);\n        return -1;",
        code: "TG0601",
    },
    Mistake {
        name: "a lookup may have failed",
        source: "http_hdr_rewrite/http_hdr_rewrite.c",
        from: "if (!text || !request)",
        to: "if (!text)",
        code: "TG0302",
    },
    Mistake {
        name: "a number is no address (Rust)",
        source: "tls_sni_allow/tls_sni_allow.rs",
        from: "event.flow_id = stream.flow_id();",
        to: "event.flow_id = unsafe { core::ptr::read(stream.flow_id() as *const u64) };",
        code: "TG0301",
    },
    Mistake {
        name: "an index has no bound (Rust)",
        source: "tls_sni_allow/tls_sni_allow.rs",
        from: "    stream.load(offset, name, size as u32)?;\n",
        to: "    stream.load(offset, name, size as u32)?;\n    unsafe { *name.get_unchecked_mut(offset as usize) = 0 };\n",
        code: "TG0304",
    },
];

fn run(command: &mut Command) {
    let shown = format!("{command:?}");
    let out = command
        .output()
        .unwrap_or_else(|error| panic!("{shown}: {error}; `cargo xtask setup` installs what is needed"));
    assert!(out.status.success(), "{shown}\n{}", String::from_utf8_lossy(&out.stderr));
}

/// Compiles `text` in a folder of its own, as the policies are compiled.
fn compile(folder: &Path, source: &str, text: &str) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder can be made");
    let file = Path::new(source).file_name().expect("a policy is a file");
    fs::write(folder.join(file), text).expect("the source can be written");
    let object = folder.join("planted.o");
    if source.ends_with(".c") {
        let mut clang = Command::new("clang-19");
        clang.args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-ffile-compilation-dir=.", "-I"]);
        run(clang
            .arg(format!("{LOADER}/../programs/include"))
            .args(["-c", "-o"])
            .arg(&object)
            .arg(file)
            .current_dir(folder));
    } else {
        // The SDK lies beside the policies that `cargo xtask programs` compiled.
        let sdk = format!("tidegate_sdk={LOADER}/../target/programs/libtidegate_sdk.rlib");
        let options = "--edition 2024 --target bpfel-unknown-none -C opt-level=3 -C panic=abort -C codegen-units=1 \
                       -C target-cpu=v3 -C debuginfo=2 --crate-type lib --emit=obj -o planted.bc --extern";
        let mut rustc = Command::new("/usr/bin/rustc");
        rustc.args(options.split_whitespace()).arg(sdk).arg(file).current_dir(folder);
        run(rustc.arg("--remap-path-prefix").arg(format!("{}=.", folder.display())));
        run(Command::new("llc-22")
            .args(["-mcpu=v3", "-filetype=obj", "-o", "planted.o", "planted.bc"])
            .current_dir(folder));
    }
    object
}

fn verify(object: &Path) -> (Option<i32>, String) {
    let verified = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("verify")
        .arg(object.file_name().unwrap_or_default())
        .current_dir(object.parent().expect("an object lies in a folder"))
        .output();
    let verified = verified.expect("the command starts");
    let said = String::from_utf8(verified.stdout).expect("output is text");
    // The SDK was compiled where this repository lies.
    let lines = said.lines().map(|line| match line.split_once("programs/sdk/") {
        Some((before, file)) => {
            let kept = before.rfind(' ').map_or("", |space| &before[..=space]);
            format!("{kept}programs/sdk/{file}\n")
        }
        None => format!("{line}\n"),
    });
    (verified.status.code(), lines.collect())
}

#[test]
fn each_mistake_is_shown_as_it_was_when_it_was_read_last() {
    let bless = std::env::var_os("TIDEGATE_BLESS").is_some();
    let mut wrong = Vec::new();
    for Mistake { name, source, from, to, code } in MISTAKES {
        let path = format!("{LOADER}/../programs/{source}");
        let whole = fs::read_to_string(&path).expect("the policy is there");
        let planted = whole.replacen(from, to, 1);
        assert_ne!(planted, whole, "{source} no longer has {from:?}: plant another mistake");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted").join(name.replace(' ', "-"));
        let (exit, said) = verify(&compile(&folder, source, &planted));
        let kept = PathBuf::from(format!("{LOADER}/tests/planted/{}.txt", name.replace(' ', "-")));
        if bless {
            fs::write(&kept, &said).expect("a text can be written");
        }
        if exit != Some(2) || !said.contains(&format!("error[{code}]")) {
            wrong.push(format!("{name}: not refused with {code}:\n{said}"));
        } else if fs::read_to_string(&kept).ok().as_deref() != Some(&said) {
            wrong.push(format!("{name}: {} says something else than:\n{said}", kept.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_missing_bounds_check_is_found_at_its_line() {
    let mistake = &MISTAKES[0];
    let whole =
        fs::read_to_string(format!("{LOADER}/../programs/{}", mistake.source)).expect("the policy is there");
    let line = 1 + whole[..whole.find(mistake.from).expect("the check is there")].matches('\n').count();
    let said = fs::read_to_string(format!("{LOADER}/tests/planted/{}.txt", mistake.name.replace(' ', "-")));
    let said = said.expect("the text was kept");
    for part in [&format!("tls_sni_allow.c:{line}"), "if (entry->type != HOST_NAME)", "data_end", "help: "] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}
