//! How far something is that takes long: one line on a terminal, written over until it is done, and gone then.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines, so that writing them costs nothing.
const PAUSE: Duration = Duration::from_millis(100);
/// Letters of a line at most: a longer one would wrap on some terminals, and then nothing can be written over it.
const WIDTH: usize = 78;

/// Tells how far something is, or nobody, as [`Progress::default`] does.
#[derive(Default)]
pub struct Progress(Mutex<Option<Line>>);

/// What is told, and where.
struct Line {
    out: Box<dyn Write + Send>,
    all: usize,
    done: usize,
    /// What was begun last.
    at: String,
    written: Option<Instant>,
    /// Letters of what stands there.
    width: usize,
}

impl Progress {
    /// Tells it on the standard error.
    pub fn on_stderr() -> Self {
        Self::on(io::stderr())
    }

    fn on(out: impl Write + Send + 'static) -> Self {
        let out = Box::new(out);
        Self(Mutex::new(Some(Line { out, all: 0, done: 0, at: String::new(), written: None, width: 0 })))
    }

    /// There will be `more` to do.
    pub fn expect(&self, more: usize) {
        if let Some(line) = &mut *self.line() {
            line.all += more;
        }
    }

    /// Does one thing, which is called `name`.
    pub fn of<R>(&self, name: impl FnOnce() -> String, work: impl FnOnce() -> R) -> R {
        if let Some(line) = &mut *self.line() {
            line.at = name();
            line.write();
        }
        let result = work();
        if let Some(line) = &mut *self.line() {
            line.done += 1;
            line.write();
        }
        result
    }

    fn line(&self) -> MutexGuard<'_, Option<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(line) = &mut *self.line() {
            line.put("");
        }
    }
}

impl Line {
    fn write(&mut self) {
        if self.written.is_none_or(|last| last.elapsed() >= PAUSE) {
            self.written = Some(Instant::now());
            let text = format!("{} of {}: {}", self.done, self.all, self.at);
            // Names come from files: nothing in them may steer the terminal.
            let text: String = text.chars().filter(|letter| !letter.is_control()).take(WIDTH).collect();
            self.put(&text);
        }
    }

    /// Writes `text` over what stands there. A terminal that went away is no reason to end.
    fn put(&mut self, text: &str) {
        let blanks = self.width;
        self.width = text.chars().count();
        let _ = write!(self.out, "\r{:blanks$}\r{text}", "").and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Terminal(Arc<Mutex<Vec<u8>>>);

    impl Write for Terminal {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_written_over_and_gone_in_the_end() {
        let terminal = Terminal::default();
        let progress = Progress::on(terminal.clone());
        progress.expect(2);
        assert_eq!(progress.of(|| "one\x1b[2J".into(), || 7), 7);
        std::thread::sleep(PAUSE);
        progress.of(|| "x".repeat(200), || ());
        drop(progress);
        let text = String::from_utf8(terminal.0.lock().expect("no panic").clone()).expect("text");
        let second = format!("1 of 2: {}", "x".repeat(WIDTH - 8));
        let blank = |letters: usize| format!("\r{}\r", " ".repeat(letters));
        assert_eq!(text, format!("{}0 of 2: one[2J{}{second}{}", blank(0), blank(14), blank(WIDTH)));
    }

    #[test]
    fn nobody_is_told_what_nobody_wants_to_know() {
        let progress = Progress::default();
        progress.expect(1);
        assert_eq!(progress.of(|| panic!("nobody asked for its name"), || 7), 7);
    }
}
