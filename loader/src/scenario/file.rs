//! The form of a scenario file, before it is given a meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use toml::{Spanned, Table};

/// Contents of maps: by the map's name, its keys and values.
pub(super) type Maps = BTreeMap<String, Table>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) objects: Option<Vec<Spanned<String>>>,
    pub(super) program: Option<OneOrMany>,
    #[serde(default)]
    pub(super) on_error: OnError,
    #[serde(default)]
    pub(super) maps: Maps,
    #[serde(default)]
    pub(super) globals: Table,
    #[serde(default)]
    pub(super) scenario: Vec<Spanned<Scenario>>,
}

/// What maps and constants hold, in a file of their own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    #[serde(default)]
    pub(super) maps: Maps,
    #[serde(default)]
    pub(super) globals: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) local: Option<Spanned<String>>,
    pub(super) remote: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) opener: Opener,
    #[serde(default)]
    pub(super) segmentation: Segmentation,
    pub(super) application: Option<Spanned<String>>,
    pub(super) beside: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) maps: Maps,
    #[serde(default)]
    pub(super) globals: Table,
    #[serde(default)]
    pub(super) steps: Vec<Spanned<Step>>,
    pub(super) capture: Option<Spanned<String>>,
    pub(super) flow: Option<Spanned<usize>>,
    pub(super) port: Option<u16>,
    #[serde(default)]
    pub(super) expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) send: Option<OneOrMany>,
    pub(super) receive: Option<OneOrMany>,
    pub(super) fin: Option<Way>,
    pub(super) reset: Option<Way>,
    pub(super) missed: Option<u64>,
    pub(super) udp: Option<OneOrMany>,
    pub(super) tcp: Option<OneOrMany>,
    pub(super) flags: Option<String>,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) is: Option<Is>,
    pub(super) becomes: Option<OneOrMany>,
    pub(super) leaves_for: Option<String>,
    pub(super) tos: Option<u8>,
    after_ms: Option<u64>,
}

impl Step {
    /// How long after the step before it.
    pub(super) fn after(&self) -> Duration {
        Duration::from_millis(self.after_ms.unwrap_or(0))
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    pub(super) connection: Option<Connection>,
    pub(super) sent: Option<OneOrMany>,
    pub(super) received: Option<OneOrMany>,
    #[serde(default)]
    pub(super) sent_contains: Vec<String>,
    #[serde(default)]
    pub(super) sent_lacks: Vec<String>,
    #[serde(default)]
    pub(super) received_contains: Vec<String>,
    #[serde(default)]
    pub(super) received_lacks: Vec<String>,
    pub(super) verdicts: Option<Vec<String>>,
    #[serde(default)]
    pub(super) errors: u64,
    #[serde(default)]
    pub(super) events: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(super) maps: Maps,
    pub(super) packets: Option<Packets>,
}

/// Totals of packets; one that is not given is not looked at.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Packets {
    pub(super) sent: Option<u64>,
    pub(super) blocked: Option<u64>,
    pub(super) changed: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnError {
    #[default]
    Block,
    Permit,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Opener {
    #[default]
    Local,
    Remote,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Segmentation {
    #[default]
    All,
    Given,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    Send,
    Receive,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Connection {
    Open,
    Dropped,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Is {
    Sent,
    Blocked,
    Changed,
}
