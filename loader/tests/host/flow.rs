//! What is told of the connections that pass through a host.

use serde_json::Value;

use crate::common::{GATE, Host, folder};

#[test]
fn the_connections_that_links_are_shown_are_listed() {
    let host = Host::start(&folder("host-flows"));
    let mut unseen = host.connect();
    assert_eq!(host.say(&mut unseen, "hello", 5).as_deref(), Some("hello"));
    assert_eq!(host.run(&["flow", "list"]).ok(), "0 flows\n", "no link is shown it");

    host.run(&["prog", "load", GATE, "--prog", "cut", "--map", "cuts.113=0", "--attach"]).ok();
    let mut streams = [host.connect(), host.connect()];
    for stream in &mut streams {
        assert_eq!(host.say(stream, "hello", 5).as_deref(), Some("hello"));
    }
    let link = host.run(&["-j", "link", "show"]).json()["links"][0]["id"].clone();
    let listed = host.run(&["-j", "flow", "list"]).json();
    let rows = |listed: &Value| listed["flows"].as_array().expect("flows").clone();
    assert_eq!(rows(&listed).len(), 2, "{listed}");
    for row in rows(&listed) {
        assert_eq!(
            (&row["hook"], &row["links"][0], &row["state"]),
            (&"stream-v4".into(), &link, &"open".into())
        );
        assert_eq!((&row["outbound"]["held_bytes"], &row["by"]), (&0.into(), &Value::Null));
    }
    // Each is found by its number, and by the end that is its alone.
    let local = |stream: &std::net::TcpStream| stream.local_addr().expect("an address").to_string();
    for stream in &streams {
        let one = host.run(&["-j", "flow", "list", &local(stream)]).json();
        let [row] = &rows(&one)[..] else { panic!("one flow: {one}") };
        let again = host.run(&["flow", "list", &row["id"].to_string()]).ok();
        assert!(again.contains(&local(stream)) && again.ends_with("1 flow\n"), "{again}");
    }
    assert_eq!(host.run(&["-j", "flow", "list", "1.1.1.1-:80"]).json()["flows"], Value::Array(Vec::new()));
    assert_eq!(host.run(&["flow", "list", "nonsense"]).exit, 1);
    drop((unseen, streams));
}
