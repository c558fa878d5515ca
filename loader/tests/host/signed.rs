//! With a trust file a host runs bundles of its keys only, and what they run is held to what those are granted.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{GATE, Host, Ran, folder, tidegate};

/// A host, and a folder with keys, objects and bundles.
struct Place {
    folder: PathBuf,
    host: Host,
}

/// What a key is granted here.
const GRANTS: &str = r#"may = ["see payload", "edit", "drop"]
hooks = ["stream-v4", "stream-v6"]
budget = 70000
"#;

impl Place {
    fn new(name: &str) -> Self {
        let folder = folder(name);
        fs::copy(GATE, folder.join("gate.o")).expect("an object");
        let host = Host::start(&folder);
        let place = Self { folder, host };
        for key in ["ops", "other"] {
            place.type_(&["bundle", "keygen", &place.path(&format!("{key}.key"))]).ok();
        }
        place
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("text").into()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        fs::write(self.folder.join(name), text).expect("a file");
        self.path(name)
    }

    fn type_(&self, words: &[&str]) -> Ran {
        self.host.run(&[&["-j"], words].concat())
    }

    /// The public key beside a secret one: signing says it.
    fn public(&self, key: &str) -> String {
        let bundle = self.bundle("probe.toml", "stamp", "");
        let said = self.type_(&["bundle", "sign", &bundle, "--key", &self.path(key)]).json();
        said["key"].as_str().expect("a key").into()
    }

    fn bundle(&self, name: &str, program: &str, more: &str) -> String {
        let text = format!("[[link]]\nobject = \"gate.o\"\nprogram = \"{program}\"\npriority = 5\n{more}");
        self.write(name, text)
    }

    fn sign(&self, bundle: &str, key: &str) {
        self.type_(&["bundle", "sign", bundle, "--key", &self.path(key)]).ok();
    }

    fn trust(&self, keys: &[(&str, &str)]) -> String {
        let entry = |(key, grants): &(&str, &str)| {
            format!("[keys.{key}]\npublic = \"{}\"\n{grants}", self.public(&format!("{key}.key")))
        };
        let text = keys.iter().map(entry).collect::<String>();
        self.write("trust.toml", text)
    }

    /// All that the host has.
    fn state(&self) -> (Value, Value, Value) {
        ["prog", "link", "map"].map(|noun| self.type_(&[noun, "show"]).json()).into()
    }

    /// How `words` were refused, and that nothing was touched.
    fn refused(&self, words: &[&str]) -> (i32, String) {
        let before = self.state();
        let ran = self.type_(words);
        assert_eq!(self.state(), before, "{words:?}");
        let code = ran.json()["error"]["code"].as_str().unwrap_or("none").into();
        (ran.exit, code)
    }

    fn granted(&self) -> Value {
        self.type_(&["prog", "show"]).json()["programs"][0]["granted"].clone()
    }
}

#[test]
fn a_signed_bundle_runs_and_is_held_to_what_its_key_is_granted() {
    let place = Place::new("signed");
    let bundle = place.bundle("bundle.toml", "cut", "");
    place.sign(&bundle, "ops.key");
    let trust = place.trust(&[("ops", GRANTS), ("other", "may = []\nhooks = [\"stream-v4\"]\n")]);
    let said = place.type_(&["bundle", "verify", &bundle, "--trust", &trust]).json();
    assert_eq!(said["signer"]["name"], "ops", "{said}");
    assert_eq!(said["granted"]["budget"], 70_000, "{said}");
    assert_eq!(said["objects"][0]["name"], "gate.o", "{said}");

    for words in [&["diff", &bundle][..], &["apply", &bundle, "--dry-run"]] {
        let said = place.type_(&[words, &["--trust", &trust]].concat()).json();
        assert_eq!((&said["signer"]["name"], &said["granted"]["budget"]), (&"ops".into(), &70_000.into()));
        assert_eq!(said["applied"], false);
    }
    let text = place.host.run(&["apply", &bundle, "--trust", &trust]).ok();
    assert!(
        text.starts_with("signed by ops; granted: may decide, see payload, edit, drop; at stream-v4"),
        "{text}"
    );
    assert_eq!(place.granted()["may"], serde_json::json!(["see payload", "edit", "drop"]));

    // The runtime holds what runs to it, whoever asks.
    let attach =
        |words: &[&str]| place.refused(&[&["link", "attach", "cut", "--priority", "9"], words].concat());
    assert_eq!(attach(&["--budget", "70001"]), (4, "not-granted".into()));
    let kept = place.granted();

    // One that may do nothing but decide, where this one ran: its program does more.
    place.sign(&bundle, "other.key");
    assert_eq!(place.refused(&["apply", &bundle, "--trust", &trust]), (4, "not-granted".into()));
    assert_eq!(place.refused(&["bundle", "verify", &bundle, "--trust", &trust]), (4, "not-granted".into()));

    // The next version may do more, the one that comes back no more than before.
    place.sign(&bundle, "ops.key");
    let more = place.trust(&[("ops", &GRANTS.replace("70000", "80000"))]);
    let said = place.type_(&["apply", &bundle, "--trust", &more]).json();
    assert_eq!(said["steps"][0]["why"][0], "grants", "{said}");
    assert_eq!(place.granted()["budget"], 80_000);
    place.type_(&["rollback"]).ok();
    assert_eq!(place.granted(), kept, "the version that comes back has its grants");

    // A rollback asks the trust file of today too.
    let less = place.trust(&[("ops", &GRANTS.replace("70000", "65536"))]);
    place.type_(&["rollback", "--trust", &less]).ok();
    assert_eq!(place.granted()["budget"], 65_536, "no more than today");
    let nobody = place.trust(&[("other", GRANTS)]);
    assert_eq!(place.refused(&["rollback", "--trust", &nobody]), (4, "bundle-key".into()));
}

#[test]
fn a_program_that_nobody_signed_does_not_go_on_as_a_canary() {
    let place = Place::new("signed-canary");
    let bundle = place.bundle("bundle.toml", "cut", "");
    place.sign(&bundle, "ops.key");
    let trust = place.trust(&[("ops", GRANTS)]);
    let apply = || place.type_(&["apply", &bundle, "--trust", &trust]).ok();
    apply();
    let signed = place.type_(&["prog", "show"]).json();
    place.type_(&["prog", "load", GATE, "--prog", "stamp"]).ok();
    let link = place.type_(&["link", "show"]).json()["links"][0]["id"].to_string();
    place.type_(&["link", "replace", &link, "stamp", "--canary", "100%"]).ok();
    let said = place.type_(&["diff", &bundle, "--trust", &trust]).json();
    assert_eq!(said["steps"][0]["trial"]["name"], "stamp", "{said}");
    apply();
    let ids = |shown: &Value| -> Vec<_> {
        shown["programs"].as_array().expect("a list").iter().map(|row| row["id"].clone()).collect()
    };
    assert_eq!(ids(&place.type_(&["prog", "show"]).json()), ids(&signed));
    assert_eq!(place.type_(&["link", "show"]).json()["links"][0]["trial"], Value::Null);
}

#[test]
fn what_is_not_signed_as_it_must_be_is_refused_before_anything_is_touched() {
    let place = Place::new("signed-refused");
    let bundle = place.bundle("bundle.toml", "cut", "");
    let trust = place.trust(&[("ops", GRANTS)]);
    let apply = || place.refused(&["apply", &bundle, "--trust", &trust]);
    let denied = |code: &str| (4, code.to_string());
    assert_eq!(apply(), denied("bundle-unsigned"));
    place.sign(&bundle, "other.key");
    assert_eq!(apply(), denied("bundle-key"));

    place.sign(&bundle, "ops.key");
    let signature = fs::read_to_string(place.path("bundle.toml.sig")).expect("it was signed");
    place.write("bundle.toml.sig", signature.replace("gate.o", "gate.p"));
    assert_eq!(apply(), denied("bundle-signature"), "another name is another text");
    place.write("bundle.toml.sig", "");
    assert_eq!(apply(), denied("bundle-signature"));
    place.write("bundle.toml.sig", &signature);

    let text = fs::read_to_string(&bundle).expect("a bundle");
    place.write("bundle.toml", text.replace("priority = 5", "priority = 6"));
    assert_eq!(apply(), denied("bundle-changed"));
    place.write("bundle.toml", "not even TOML");
    assert_eq!(apply(), denied("bundle-changed"), "its text is not read before its signature");
    place.write("bundle.toml", &text);

    let object = fs::read(GATE).expect("an object");
    place.write("gate.o", &object[1..]);
    assert_eq!(apply(), denied("bundle-changed"));
    fs::remove_file(place.path("gate.o")).expect("it is there");
    assert_eq!(apply(), (5, "file-not-found".into()));
    place.write("gate.o", &object);
    place.type_(&["apply", &bundle, "--trust", &trust]).ok();

    // A folder that was tampered with brings nothing back.
    place.type_(&["apply", &place.bundle("next.toml", "stamp", "")]).ok();
    let kept = PathBuf::from(format!("{}.bundles/previous", place.host.socket.display()));
    let of = |name: &str| fs::read(kept.join(name)).expect("it was kept");
    assert_eq!(
        (of("0.o"), of("bundle.toml")),
        (object.clone(), text.into_bytes()),
        "what was read is what is kept"
    );
    fs::write(kept.join("0.o"), &object[1..]).expect("a file");
    assert_eq!(place.refused(&["rollback", "--trust", &trust]), denied("bundle-changed"));
    fs::write(kept.join("0.o"), &object).expect("a file");
    place.type_(&["rollback", "--trust", &trust]).ok();
    assert_eq!(place.refused(&["rollback", "--trust", &trust]), denied("bundle-unsigned"), "it never was");
}

#[test]
fn a_trust_file_is_found_in_the_environment_or_where_bundles_are_kept() {
    let place = Place::new("signed-found");
    let bundle = place.bundle("bundle.toml", "cut", "");
    assert_eq!(place.refused(&["bundle", "verify", &bundle]), (5, "trust-none".into()));
    let trust = place.trust(&[("ops", GRANTS)]);
    let said =
        Ran::of(tidegate().env("TIDEGATE_TRUST", &trust).args(["-j", "bundle", "verify"]).arg(&bundle));
    assert_eq!(said.json()["error"]["code"], "bundle-unsigned");
    let said = place.type_(&["apply", &bundle]).json();
    assert_eq!((&said["signer"], &said["unchecked"]), (&Value::Null, &false.into()), "{said}");
    place.sign(&bundle, "other.key");
    let said = place.host.run(&["diff", &bundle]).ok();
    assert!(
        said.starts_with("its signature was not looked at: there is no trust file; granted: everything"),
        "{said}"
    );
    fs::remove_file(format!("{bundle}.sig")).expect("it was signed");

    let folder = format!("{}.bundles", place.host.socket.display());
    fs::copy(&trust, Path::new(&folder).join("trust.toml")).expect("a file");
    for words in [&["apply"][..], &["diff"], &["bundle", "verify"]] {
        assert_eq!(place.refused(&[words, &[&bundle]].concat()), (4, "bundle-unsigned".into()));
    }
    place.sign(&bundle, "ops.key");
    place.type_(&["apply", &bundle]).ok();
    assert_eq!(place.granted()["budget"], 70_000);
}

#[test]
fn a_trust_file_that_says_what_there_is_not_is_refused_with_its_line() {
    let place = Place::new("signed-trust");
    let bundle = place.bundle("bundle.toml", "cut", "");
    let key = place.public("ops.key");
    let entry =
        |name: &str, key: &str, grants: &str| format!("[keys.{name}]\npublic = \"{key}\"\n{grants}\n");
    for (text, part) in [
        ("[keys.a]\npublic = 3\n".into(), ":2: "),
        (entry("a", "ed25519:00", GRANTS), "no public key"),
        (entry("a", &key, "may = [\"fly\"]\nhooks = []"), "no power `fly`: a program may see payload"),
        (entry("a", &key, "may = []\nhooks = [\"stream\"]"), "no hook `stream`"),
        (entry("a", &key, "may = []\nhooks = []\nbudget = 16777217"), "no budget is greater"),
        (entry("a", &key, "may = []"), "missing field `hooks`"),
        (entry("a", &key, "may = []\nhooks = []\nuntil = 2030"), "unknown field"),
        (entry("a", &key, GRANTS) + &entry("b", &key, GRANTS), "the key of `b` is that of `a`"),
    ] {
        let trust = place.write("trust.toml", &text);
        let ran = place.type_(&["bundle", "verify", &bundle, "--trust", &trust]);
        let error = ran.json()["error"].clone();
        assert_eq!((ran.exit, &error["code"]), (1, &"trust-malformed".into()), "{text}{error}");
        assert!(error["message"].as_str().expect("words").contains(part), "{part}: {error}");
    }
}

#[test]
fn what_keygen_prints_is_a_trust_file_that_grants_everything() {
    let place = Place::new("signed-keygen");
    let trust = Ran::of(tidegate().args(["bundle", "keygen", &place.path("my key.key")])).ok();
    assert!(trust.contains("[keys.my-key]"), "{trust}");
    let trust = place.write("trust.toml", trust);
    let bundle = place.bundle("bundle.toml", "cut", "");
    place.sign(&bundle, "my key.key");
    let said = place.type_(&["bundle", "verify", &bundle, "--trust", &trust]).json();
    assert_eq!(said["signer"]["name"], "my-key", "{said}");
    assert_eq!(said["granted"]["hooks"].as_array().map(Vec::len), Some(8), "{said}");
    let (exit, code) = place.refused(&["bundle", "keygen", &place.path("my key.key")]);
    assert_eq!((exit, code.as_str()), (1, "key-exists"));
    let (exit, code) = place.refused(&["bundle", "sign", &bundle, "--key", &place.path("gate.o")]);
    assert_eq!((exit, code.as_str()), (1, "file-io"), "no text");
}
