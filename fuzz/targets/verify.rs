//! libFuzzer's way into [`tidegate_fuzz::verify`]. What accepted programs ran is told now and then, as libFuzzer counts
//! inputs only.
#![no_main]

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tidegate_fuzz::verify::{self, Count};

/// What was counted, and when that was told last.
static TOTAL: Mutex<(Count, Option<Instant>)> = Mutex::new((Count { accepted: 0, runs: 0, states: 0 }, None));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let count = verify::run(data);
    let mut total = TOTAL.lock().expect("nobody panics while counting");
    total.0 += count;
    if total.1.is_none_or(|last| last.elapsed() > Duration::from_secs(2)) {
        let Count { accepted, runs, states } = total.0;
        eprintln!(
            "stat::accepted_programs: {accepted}\nstat::accepted_runs: {runs}\nstat::embedded_states: {states}"
        );
        total.1 = Some(Instant::now());
    }
});
