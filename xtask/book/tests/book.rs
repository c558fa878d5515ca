//! What is wrong with a page is found, and said with its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A book of one test alone, with one page of this text.
fn book(name: &str, text: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("book-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    let toml = "[book]\nsrc = \".\"\n[build]\nbuild-dir = \"out\"\n";
    let page = format!("{name}.md");
    for (file, text) in [("book.toml", toml), ("SUMMARY.md", &format!("- [A]({page})\n")), (&page, text)] {
        fs::write(folder.join(file), text).expect("a file");
    }
    folder
}

/// Whether a book holds, and what is said of it.
fn judged(book: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-book")).arg(book).output().expect("it starts");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn commands_are_run_in_one_shell_and_the_blocks_are_those_that_are_marked_so() {
    let text =
        "```sh\none=1\ntouch made\n```\n```console\nfalse\n```\n```sh\ntest $one = 1 -a -e made\n```\n";
    let (holds, said) = judged(&book("holds", text));
    assert!(holds && said.contains("ok: 3 passed"), "{said}");
}

#[test]
fn a_command_that_fails_is_named_by_its_line() {
    let (holds, said) = judged(&book("fails", "```sh\ntrue\n```\n\n```sh\nfalse\n```\n"));
    assert!(!holds && said.contains("fails.md:6: the block from here on failed"), "{said}");
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let (holds, said) =
        judged(&book("link", "[here](link.md), [there](nowhere.md#part), [out](https://example.com/)\n"));
    assert!(!holds && said.contains("[\"nowhere.md#part\"]"), "{said}");
}

#[test]
fn a_page_that_is_not_in_the_summary_is_found() {
    let book = book("listed", "text\n");
    fs::write(book.join("other.md"), "text\n").expect("a file");
    let (holds, said) = judged(&book);
    assert!(!holds && said.contains("\"other.md\""), "{said}");
}
