//! The book: renders `docs/` (or another folder that is given), holds its pages against what is there, and runs the commands
//! in them.
//!
//! The `sh` blocks of a page run one after the other in one shell and an empty folder, with the `tidegate` that lies beside this
//! program.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use mdbook_driver::MDBook;

fn main() -> ExitCode {
    let docs = env::args_os().nth(1).map_or_else(|| root().join("docs"), PathBuf::from);
    match book(&docs) {
        Ok((pages, blocks)) => {
            println!("{pages} pages rendered, {blocks} blocks of commands run");
            println!("ok: {} passed, 0 failed", pages + blocks);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// How many pages and blocks of commands there are.
fn book(docs: &Path) -> Result<(usize, usize)> {
    let summary = fs::read_to_string(docs.join("SUMMARY.md"))?;
    let listed: BTreeSet<_> = links(&summary).map(str::to_string).collect();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(docs)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") && name != "SUMMARY.md" {
            there.insert(name);
        }
    }
    ensure!(listed == there, "SUMMARY.md lists {listed:?}, and there are {there:?}");
    let mut blocks = 0;
    for page in &there {
        let text = fs::read_to_string(docs.join(page))?;
        let lost: Vec<_> = links(&text).filter(|link| !leads_somewhere(docs, link)).collect();
        ensure!(lost.is_empty(), "{page}: these links lead nowhere: {lost:?}");
        blocks += run(page, &text)?;
    }
    let book = MDBook::load(docs).and_then(|book| book.build());
    book.map_err(|error| error.context("the book can't be rendered"))?;
    Ok((there.len(), blocks))
}

/// The targets of the links of a page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

fn leads_somewhere(docs: &Path, link: &str) -> bool {
    let file = link.split('#').next().unwrap_or_default();
    link.contains("://") || file.is_empty() || docs.join(file).exists()
}

/// Runs the blocks of commands of a page. How many there are.
fn run(page: &str, text: &str) -> Result<usize> {
    let blocks = blocks(text);
    if blocks.is_empty() {
        return Ok(0);
    }
    let folder = root().join("target/book-commands").join(page);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let script = blocks
        .iter()
        .fold("set -eu\n".to_string(), |script, (line, block)| format!("{script}at={page}:{line}\n{block}"));
    let script = format!(
        "trap 'code=$?; [ $code = 0 ] || echo \"$at: the block from here on failed\"' EXIT\n{script}"
    );
    let binaries = env::current_exe()?.parent().context("this program has a folder")?.to_path_buf();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([binaries].into_iter().chain(env::split_paths(&path)))?;
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&folder)
        .env("PATH", path)
        .env("TIDEGATE", root().canonicalize()?)
        .output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{page}: a block of commands failed:\n{}", String::from_utf8_lossy(&said));
    }
    Ok(blocks.len())
}

/// The `sh` blocks of a page, each with the line that it begins in.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut inside = None;
    for (line, text) in (1..).zip(text.lines()) {
        match (text.strip_prefix("```"), inside) {
            (Some(kind), None) => {
                inside = Some(kind == "sh");
                if kind == "sh" {
                    blocks.push((line + 1, String::new()));
                }
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => {
                if let Some((_, block)) = blocks.last_mut() {
                    block.push_str(text);
                    block.push('\n');
                }
            }
            (None, _) => {}
        }
    }
    blocks
}
