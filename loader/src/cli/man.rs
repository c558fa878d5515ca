//! `tidegate gen man`: a manual page for each verb, made of what `--help` says.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Cli, Report};
use crate::error::Error;

#[derive(Args)]
pub(super) struct Options {
    /// The folder that the pages are written into, for example /usr/local/share/man/man1
    folder: PathBuf,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Pages {
    folder: PathBuf,
    files: Vec<PathBuf>,
}

pub(super) fn man(options: &Options) -> Result<Pages, Error> {
    let folder = &options.folder;
    fs::create_dir_all(folder).map_err(|error| Error::file("make", folder, &error))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut files = Vec::new();
    write(&command, folder, &mut files)?;
    Ok(Pages { folder: folder.clone(), files })
}

/// Writes the pages of a verb and of those below it: `tidegate-prog-dump.1`.
fn write(command: &Command, folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let man = Man::new(command.clone());
    let file = folder.join(man.get_filename());
    let mut page = Vec::new();
    man.render(&mut page)
        .and_then(|()| fs::write(&file, page))
        .map_err(|error| Error::file("write", &file, &error))?;
    files.push(file);
    command.get_subcommands().try_for_each(|below| write(below, folder, files))
}

impl Report for Pages {}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "{}", file.display())?;
        }
        Ok(())
    }
}
