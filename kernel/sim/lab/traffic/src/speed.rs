//! How long things take in the driver, beside a machine in user space, in the same run.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tidegate::client::Client;
use tidegate::device::Device;
use tidegate::host::{Config, Machine, Setup, Staged, runtime};
use tidegate::object::Object;
use tidegate_abi::control::Version;

use crate::doubles::Doubles;
use crate::installed::Installed;
use crate::line;

/// One measurement: the medians of both, and how they compare.
#[derive(Serialize)]
struct Row {
    measured: &'static str,
    host_ns: u64,
    driver_ns: u64,
    ratio: f64,
}

pub(crate) fn run(objects: &Path) -> Result<()> {
    let mut host = Client::new(runtime()?);
    let mut driver = Client::driver(Device::open()?);

    // Several at once: one of the host's is shorter than the clock's steps.
    let exchange = |client: &mut Client| {
        average(101, || {
            let start = Instant::now();
            for _ in 0..20 {
                client.call(&Version {})?;
            }
            Ok((20, start.elapsed()))
        })
    };
    row("round trip of a request", exchange(&mut host)?, exchange(&mut driver)?)?;

    for (what, name) in [("load of dns_filter", "dns_filter"), ("load of tls_sni_allow", "tls_sni_allow")] {
        let object = Object::read(&objects.join(format!("{name}.o")))?;
        let load = |client: &mut Client| {
            let mut times = Vec::new();
            for _ in 0..3 {
                let start = Instant::now();
                let loaded = Staged::new(client, &object, &Setup::default())?;
                times.push(start.elapsed());
                loaded.unload(client);
            }
            Ok::<_, anyhow::Error>(middle(times))
        };
        row(what, load(&mut host)?, load(&mut driver)?)?;
    }

    // The same bytes in every indication: clear text that no rule is about.
    let bytes = [b'x'; 1460];
    for (what, name, program) in [
        ("classify with permit_all", "permit_all", "permit_all_stream"),
        ("classify with tls_sni_allow", "tls_sni_allow", "tls_sni_allow"),
    ] {
        let object = Object::read(&objects.join(format!("{name}.o")))?;
        let setup = Setup { programs: vec![program.to_owned()], ..Setup::default() };
        let installed = Installed::new(&object, &setup)?;
        let mut doubles = Doubles::connect()?;
        let on_driver = average(15, || doubles.time(2000, &bytes))?;
        installed.unload();
        let mut machine = Machine::new(&object, &setup)?;
        let on_host = average(15, || {
            let session = machine.session(Config { trace_length: 0, ..Config::default() })?;
            let time = session.time(2000, &bytes);
            session.end();
            Ok(time)
        })?;
        row(what, on_host, on_driver)?;
    }
    Ok(())
}

fn row(measured: &'static str, host: Duration, driver: Duration) -> Result<()> {
    let ratio = driver.as_nanos() as f64 / host.as_nanos().max(1) as f64;
    line(&Row { measured, host_ns: host.as_nanos() as u64, driver_ns: driver.as_nanos() as u64, ratio })
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The median of averages: each a count and its time.
fn average(times: usize, mut what: impl FnMut() -> Result<(u64, Duration)>) -> Result<Duration> {
    let mut all = Vec::with_capacity(times);
    for _ in 0..times {
        let (count, time) = what()?;
        all.push(time / u32::try_from(count.max(1))?);
    }
    Ok(middle(all))
}
