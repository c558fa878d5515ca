//! `inf/tidegate.inf` keeps the rules by which Windows takes a primitive driver, and says what the driver reads.
//!
//! The rules are those of infverif's /w mode that apply to a driver without a device, with its codes where it has one.

use std::collections::BTreeMap;

use tidegate_abi::device::{self, parameter};

const INF: &str = include_str!("../../../inf/tidegate.inf");

/// Sections by lower-case name; of each its lines, cut at `=` into key and value, or only a value.
type Inf = BTreeMap<String, Vec<(String, String)>>;

fn parse(text: &str) -> Inf {
    let mut inf = Inf::new();
    let mut section = String::new();
    for line in text.lines().map(|line| line.split_once(';').map_or(line, |(before, _)| before).trim()) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_lowercase();
            assert!(inf.insert(section.clone(), Vec::new()).is_none(), "[{section}] stands twice");
        } else if !line.is_empty() {
            let (key, value) = line.split_once('=').unwrap_or(("", line));
            let lines = inf.get_mut(&section).expect("a line stands in a section");
            lines.push((key.trim().to_lowercase(), value.trim().to_owned()));
        }
    }
    inf
}

fn value<'i>(inf: &'i Inf, section: &str, key: &str) -> Option<&'i str> {
    let found = inf.get(&section.to_lowercase())?.iter().find(|(name, _)| name == key)?;
    Some(&found.1)
}

/// What infverif would say.
fn verify(text: &str) -> Vec<String> {
    let inf = parse(text);
    let mut found = Vec::new();
    let mut rule = |holds: bool, what: &str| {
        if !holds {
            found.push(what.to_owned());
        }
    };
    let version = |key| value(&inf, "Version", key);
    let signature = version("signature").is_some_and(|text| text.eq_ignore_ascii_case("\"$WINDOWS NT$\""));
    rule(signature, "signature");
    rule(version("class") == Some("WFPCALLOUTS"), "class");
    rule(version("classguid") == Some("{57465043-616C-6C6F-7574-5F636C617373}"), "class GUID");
    rule(version("provider").is_some(), "1297 provider");
    rule(version("catalogfile") == Some("tidegate.cat"), "catalogue");
    rule(version("pnplockdown") == Some("1"), "1324 PnpLockdown");
    let dated = version("driverver").is_some_and(|text| {
        let (date, number) = text.split_once(',').unwrap_or_default();
        let parts = |text: &str, at| text.split(at).map(str::parse::<u16>).collect::<Result<Vec<_>, _>>();
        parts(date, '/').is_ok_and(|date| date.len() == 3 && (1..=12).contains(&date[0]) && date[2] > 2000)
            && parts(number, '.').is_ok_and(|number| number.len() == 4)
    });
    rule(dated, "DriverVer");

    rule(!inf.contains_key("manufacturer"), "a primitive driver has no models");
    let sections = ["defaultinstall", "defaultuninstall", "defaultinstall.services"];
    rule(sections.iter().all(|name| !inf.contains_key(*name)), "1421 undecorated section");
    rule(!inf.contains_key("defaultuninstall.ntamd64"), "1420 the platform uninstalls");
    let install = inf.get("defaultinstall.ntamd64");
    let allowed = ["optiondesc", "copyfiles"];
    let only = |(key, _): &(String, String)| allowed.contains(&key.as_str());
    rule(install.is_some_and(|lines| lines.iter().all(only)), "1420 directive of DefaultInstall");

    let places: Vec<_> =
        inf.get("destinationdirs").into_iter().flatten().map(|(_, value)| value.as_str()).collect();
    rule(places == ["13"], "1322 not in the driver store");
    let files =
        value(&inf, "DefaultInstall.NTamd64", "copyfiles").and_then(|name| inf.get(&name.to_lowercase()));
    let files: Vec<_> = files.into_iter().flatten().map(|(_, file)| file.as_str()).collect();
    rule(files == [format!("{}.sys", device::SERVICE)], "files");
    let sourced = files.iter().all(|file| {
        let disk = value(&inf, "SourceDisksFiles", file);
        disk.is_some_and(|disk| value(&inf, "SourceDisksNames", disk).is_some())
    });
    rule(sourced, "1205 file without a source");

    let service = value(&inf, "DefaultInstall.NTamd64.Services", "addservice").unwrap_or_default();
    let service: Vec<_> = service.split(',').map(str::trim).collect();
    let [name, flags, section] = service[..] else {
        found.push("AddService".to_owned());
        return found;
    };
    rule(name == device::SERVICE && flags.is_empty(), "service");
    let of = |key| value(&inf, section, key);
    rule(of("servicetype") == Some("1"), "service type");
    rule(["0", "1", "3"].contains(&of("starttype").unwrap_or_default()), "start type");
    rule(of("errorcontrol") == Some("1"), "error control");
    rule(of("servicebinary") == Some(r"%13%\tidegate.sys"), "1322 binary outside of the driver store");
    let registry = of("addreg").and_then(|name| inf.get(&name.to_lowercase()));
    let registry: Vec<Vec<_>> =
        registry.into_iter().flatten().map(|(_, line)| line.split(',').map(str::trim).collect()).collect();
    rule(registry.iter().all(|line| line.starts_with(&["HKR", "Parameters"])), "1323 not below Parameters");

    let tokens = text.lines().flat_map(|line| line.split('%').skip(1).step_by(2));
    let named =
        |token: &str| token.parse::<u32>().is_ok() || value(&inf, "Strings", &token.to_lowercase()).is_some();
    rule(tokens.into_iter().all(named), "a string that is not defined");
    found
}

#[test]
fn it_keeps_the_rules_of_a_primitive_driver() {
    assert_eq!(verify(INF), [""; 0]);
}

#[test]
fn its_parameters_are_those_that_the_driver_reads() {
    let inf = parse(INF);
    let written: Vec<_> = inf["tidegate.parameters"]
        .iter()
        .map(|(_, line)| {
            let parts: Vec<_> = line.split(',').map(str::trim).collect();
            let [_, _, name, kind, number] = parts[..] else { panic!("{line}") };
            // FLG_ADDREG_TYPE_DWORD | FLG_ADDREG_NOCLOBBER: what an administrator set stays.
            assert_eq!(kind, "0x00010003", "{name}");
            let number =
                number.strip_prefix("0x").map_or_else(|| number.parse(), |hex| u32::from_str_radix(hex, 16));
            (name, number.expect("a number"))
        })
        .collect();
    let read: Vec<_> = parameter::ALL.iter().map(|parameter| (parameter.name, parameter.default)).collect();
    assert_eq!(written, read);
}

#[test]
fn a_rule_that_is_broken_is_found() {
    for (line, instead, code) in [
        ("PnpLockdown = 1", "", "1324"),
        ("DefaultDestDir = 13", "DefaultDestDir = 12", "1322"),
        (r"%13%\tidegate.sys", r"%12%\tidegate.sys", "1322"),
        ("HKR, Parameters, MaxWaits", "HKR,, MaxWaits", "1323"),
        ("[DefaultInstall.NTamd64]", "[DefaultInstall]", "1421"),
        ("CopyFiles  = Tidegate.Files", "CopyFiles = Tidegate.Files\nDelReg = x", "1420"),
        ("tidegate.sys = 1", "", "1205"),
        ("Provider    = %Provider%", "", "1297"),
        ("11/25/2026,0.1.0.0", "2026-11-25", "DriverVer"),
        ("Provider    = \"", "Maker = \"", "not defined"),
        ("[Strings]", "[Manufacturer]\n[Strings]", "models"),
        ("Class       = WFPCALLOUTS", "Class = System", "class"),
        ("AddService = tidegate,,", "AddService = other,,", "service"),
    ] {
        assert!(INF.contains(line), "{line}");
        let found = verify(&INF.replacen(line, instead, 1));
        assert!(found.iter().any(|found| found.contains(code)), "{line} -> {instead}: {found:?}");
    }
}
