//! Instances: an object of a bundle as it is loaded, once for all the links that run its programs, so that they share its maps.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::{Link, Source};
use crate::error::Error;
use crate::host::Setup;
use crate::object::{Object, Program};

/// An object with one set of maps.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) object: Object,
    /// Names of its programs that run somewhere; what links give its maps and constants, all of them together.
    pub(super) setup: Setup,
    /// The same programs, by their places in [`Object::programs`].
    pub(super) programs: Vec<usize>,
}

impl Instance {
    /// The program of this place among those that run somewhere.
    pub(super) fn program(&self, place: usize) -> &Program {
        &self.object.programs()[self.programs[place]]
    }

    /// The place in the object of the program of this name; the object is at `path`.
    pub(super) fn find(&self, name: &str, path: &Path) -> Result<usize, Error> {
        let programs = self.object.programs();
        programs.iter().position(|program| program.name == name).ok_or_else(|| {
            let known: Vec<_> = programs.iter().map(|program| program.name.as_str()).collect();
            Error::usage("program-unknown", format!("{} has no program `{name}`", path.display()))
                .with_help(format!("it has {}", known.join(", ")))
        })
    }

    /// The place of a program of the object among those that run somewhere: it is one of them from now on.
    pub(super) fn place(&mut self, at: usize) -> usize {
        self.programs.iter().position(|known| *known == at).unwrap_or_else(|| {
            self.setup.programs.push(self.object.programs()[at].name.clone());
            self.programs.push(at);
            self.programs.len() - 1
        })
    }
}

/// The instances of a bundle that is being read.
#[derive(Default)]
pub(super) struct Instances {
    all: Vec<Instance>,
    /// By the object's file, and the name that a link gives to an instance of its own.
    known: BTreeMap<(PathBuf, Option<String>), usize>,
    /// Where the link stands that gave an instance a thing.
    given: BTreeMap<(usize, String), usize>,
}

impl Instances {
    /// The one that `link` is of; `object` is read for the first link of it.
    pub(super) fn number(
        &mut self,
        link: &Link,
        object: impl FnOnce() -> Result<Object, Error>,
    ) -> Result<usize, Error> {
        let key = (file(&link.object), link.instance.clone());
        if let Some(number) = self.known.get(&key) {
            return Ok(*number);
        }
        self.all.push(Instance { object: object()?, setup: Setup::default(), programs: Vec::new() });
        self.known.insert(key, self.all.len() - 1);
        Ok(self.all.len() - 1)
    }

    pub(super) fn at(&mut self, number: usize) -> &mut Instance {
        &mut self.all[number]
    }

    /// Gives an instance what `link` says of maps and constants, which stands at `start`. What a link does not speak of it takes as
    /// others give it.
    ///
    /// # Errors
    /// Another link gives the same thing otherwise.
    pub(super) fn give(
        &mut self,
        number: usize,
        link: &Link,
        start: usize,
        source: &Source<'_>,
    ) -> Result<(), Error> {
        let setup = &mut self.all[number].setup;
        let maps = link.maps.iter().map(|(name, entries)| {
            let same = setup.maps.entry(name.clone()).or_insert_with(|| entries.clone()) == entries;
            (format!("maps.{name}"), same)
        });
        let mut given: Vec<_> = maps.collect();
        for (name, value) in &link.globals {
            let same = setup.globals.entry(name.clone()).or_insert_with(|| value.clone()) == value;
            given.push((format!("globals.{name}"), same));
        }
        for (what, same) in given {
            let other = *self.given.entry((number, what.clone())).or_insert(start);
            if !same {
                let message = format!(
                    "`{what}` is not what the link in line {} says, and links of one object share its maps",
                    source.line(other)
                );
                return Err(source.error("instance-conflict", start, &message).with_help(
                    "say it the same way, or load the object once more for this link: `instance = \"NAME\"`",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn into_all(self) -> Vec<Instance> {
        self.all
    }
}

/// The file that a bundle names, however often it says `./`.
fn file(name: &str) -> PathBuf {
    Path::new(name).components().filter(|part| *part != Component::CurDir).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::process::Command;
    use std::{env, fs, process};

    use tidegate_abi::control::{MapInfo, MapList};

    use super::*;
    use crate::bundle::{Bundle, Plan, apply};
    use crate::capture::{Flags, Transport};
    use crate::client::Client;
    use crate::flows::{Direction, Kind, Step};
    use crate::host::{Config, Machine};

    /// A folder of a test's own with an object in it: two programs, one of which leaves in a map what the other looks up.
    fn rate_limit(name: &str) -> PathBuf {
        let folder = env::temp_dir().join(format!("tidegate-instance-{name}-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let programs = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs");
        let status = Command::new("clang-19")
            .args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-I"])
            .arg(format!("{programs}/include"))
            .arg("-c")
            .arg(format!("{programs}/rate_limit/rate_limit.c"))
            .arg("-o")
            .arg(folder.join("rate_limit.o"))
            .status();
        assert!(status.expect("clang-19 is needed: `cargo xtask setup` installs it").success());
        folder
    }

    fn read(folder: &Path, text: &str) -> Result<Bundle, Error> {
        let path = folder.join("bundle.toml");
        fs::write(&path, text).expect("a bundle");
        Bundle::read(&path, None)
    }

    /// A limit by process: one packet of 300 bytes, and no more for a while. `owners` is said of the half that knows processes.
    fn by_process(owners: &str) -> String {
        format!(
            "[[link]]\nobject = \"./rate_limit.o\"\nprogram = \"rate_limit_owners\"\npriority = 1\n{owners}\n\
             [[link]]\nobject = \"rate_limit.o\"\nprogram = \"rate_limit\"\npriority = 1\n\
             maps.limits = {{ 0 = {{ rate = 1000, burst = 300, by = 8 }} }}\n"
        )
    }

    /// Has a machine run a bundle. A second time there is nothing to change.
    fn run(machine: &Machine, bundle: &Bundle) -> String {
        let mut client = Client::new(machine.runtime());
        let mut plan = Plan::new(&mut client, bundle).expect("an answer");
        apply(&mut client, bundle, &mut plan, |_| Ok(())).expect("it is accepted");
        let then = Plan::new(&mut client, bundle).expect("an answer").to_string();
        assert!(then.ends_with("nothing to change\n"), "{then}");
        plan.to_string()
    }

    fn maps_called(machine: &Machine, name: &str) -> usize {
        let mut client = Client::new(machine.runtime());
        let ids = client.ids(|after| MapList { after }).expect("an answer");
        ids.into_iter()
            .filter(|map| client.call(&MapInfo { map: *map }).expect("it is there").name == name)
            .count()
    }

    /// Whether packets leave that two connections of one process send, each of which is as much as the limit lets through.
    fn leave(bundle: &Bundle) -> [bool; 2] {
        let mut machine = Machine::empty().expect("a machine");
        run(&machine, bundle);
        let session = machine.session(Config::default()).expect("a session");
        let left = [40_001, 40_002].map(|port| {
            let (local, remote): (SocketAddr, SocketAddr) =
                (([10, 0, 0, 2], port).into(), ([192, 0, 2, 1], 443).into());
            let flow = session.open(local, remote, Direction::Outbound);
            let data = Kind::Data { bytes: b"a"[..].into(), push: true };
            session.show(flow, &Step::new(Direction::Outbound, data));
            session.settle();
            let transport = Transport::Tcp { sequence: 1, flags: Flags::default() };
            let asked = session.send(local, remote, transport, &[b'a'; 280]);
            session.settle();
            session.passed(asked)
        });
        assert_eq!(session.end(), Vec::<String>::new());
        left
    }

    #[test]
    fn a_limit_by_process_works_when_its_halves_are_two_links() {
        let folder = rate_limit("halves");
        let together = read(&folder, &by_process("")).expect("a bundle");
        assert_eq!(leave(&together), [true, false], "both are of one process");
        let apart = read(&folder, &by_process("instance = \"apart\"")).expect("a bundle");
        assert_eq!(leave(&apart), [true, true], "whose they are is written where nobody looks");
        fs::remove_dir_all(&folder).expect("it is there");
    }

    #[test]
    fn links_of_an_object_come_together_and_go_apart_as_the_file_says() {
        let folder = rate_limit("apart");
        let [together, apart] =
            ["", "instance = \"apart\""].map(|more| read(&folder, &by_process(more)).expect("a bundle"));
        let machine = Machine::empty().expect("a machine");
        run(&machine, &together);
        assert_eq!(maps_called(&machine, "owners"), 1);
        let said = run(&machine, &apart);
        assert!(said.contains("another's too"), "{said}");
        assert_eq!(maps_called(&machine, "owners"), 2);
        let said = run(&machine, &together);
        assert!(said.contains("map `owners` of its own"), "{said}");
        assert_eq!(maps_called(&machine, "owners"), 1);
        fs::remove_dir_all(&folder).expect("it is there");
    }

    #[test]
    fn what_links_of_an_object_say_of_its_maps_is_one_or_refused() {
        let folder = env::temp_dir().join(format!("tidegate-instance-said-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let gate = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gate.o");
        let links = |first: &str, second: &str| {
            let link = |program: &str, priority: u8, more: &str| {
                format!("[[link]]\nobject = {gate:?}\nprogram = {program:?}\npriority = {priority}\n{more}\n")
            };
            link("cut", 1, first) + &link("cut", 2, second) + &link("stamp", 3, "")
        };
        let instances = |first: &str, second: &str| {
            read(&folder, &links(first, second)).map(|bundle| bundle.instances.len())
        };
        let cuts = "maps.cuts = { 113 = 0 }";
        assert_eq!(instances(cuts, "").ok(), Some(1));
        assert_eq!(instances(cuts, "maps.cuts = { \"113\" = 0 }").ok(), Some(1), "the same, said twice");
        assert_eq!(instances(cuts, "maps.marks = { 0 = \"str:<second>\" }").ok(), Some(1));
        assert_eq!(instances(cuts, "maps.cuts = { 120 = 0 }\ninstance = \"other\"").ok(), Some(2));
        for (first, second, what) in [
            (cuts, "maps.cuts = { 120 = 0 }", "`maps.cuts`"),
            ("globals.version = 2", "globals.version = 3", "`globals.version`"),
        ] {
            let error = instances(first, second).expect_err("two contents of one map");
            assert_eq!(error.code, "instance-conflict");
            assert!(
                error.message.contains(&format!("bundle.toml:6: {what} is not what the link in line 1 says"))
            );
            assert!(error.help.is_some_and(|help| help.contains("instance = ")));
        }
        let nowhere = instances("hooks = [\"outbound-transport-v4\"]", "").expect_err("it is for streams");
        assert!(nowhere.message.contains("run nowhere"), "{nowhere}");
        fs::remove_dir_all(&folder).expect("it is there");
    }
}
