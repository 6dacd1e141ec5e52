//! Networks that lose packets: what is promised holds all the same, a little later.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::replay::{Essence, SESSIONS, captured, check_whole, essences, recorded, sorted};
use crate::tape::{program, records, skip};
use crate::{proxy, shutdown};

/// A network of its own, with the loopback interface alone, which loses packets by these rules of nft.
/// It lasts for as long as there is somebody in it. `None`, said aloud, where there is none to be had.
fn network(rules: &str) -> Option<File> {
    let (unshare, _, _) = (program("unshare")?, program("ip")?, program("nft")?);
    if !geteuid().is_root() {
        skip("only root can go into a network of its own");
        return None;
    }
    let rules = format!(
        "table inet loss {{ chain input {{ type filter hook input priority 0; {rules} }}; }}"
    );
    // Says when it is ready, and stays until its input ends.
    let script = r#"ip link set lo up && nft "$0" && echo ready && cat"#;
    let mut keeper = Command::new(unshare)
        .args(["--net", "sh", "-c", script])
        .arg(rules)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("unshare starts");
    let mut said = [0; 6];
    let mut stdout = keeper.stdout.take().expect("it is piped");
    let is_ready = stdout.read_exact(&mut said).is_ok();
    let network = File::open(format!("/proc/{}/ns/net", keeper.id()));
    drop(keeper.stdin.take());
    let _ = keeper.wait();
    if !is_ready {
        skip("no network can be had that loses packets");
        return None;
    }
    Some(network.expect("it is there as long as the keeper is"))
}

/// Does something where packets are lost: sockets and programs belong to the network of the thread that
/// makes them.
fn with_loss(rules: &str, what: impl FnOnce() + Send) {
    let Some(network) = network(rules) else {
        return;
    };
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let network_only = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), network_only).expect("root may");
            what();
        });
        inside.join().expect("it holds");
    });
}

/// One in ten of those with data: a bare header has 80 bytes at most.
const DATA: &str = "ip length > 80 numgen random mod 100 < 10 drop;";

/// One in ten of those that end a direction.
const ENDS: &str = "tcp flags & fin == fin numgen random mod 100 < 10 drop;";

/// One in ten of all, but for what takes long to be said again, and resets, which are said only once.
const ANY: &str = "tcp flags & (syn | rst) == 0 numgen random mod 100 < 10 drop;";

#[test]
fn term_in_mid_flood_keeps_every_acknowledged_byte_though_data_is_lost() {
    with_loss(DATA, || {
        shutdown::check(&[]);
        shutdown::check(&["--max-conns", "10"]);
    });
}

/// A sender may not have heard of the last that was acknowledged. What it has heard of is captured.
#[test]
fn term_in_mid_flood_keeps_every_acknowledged_byte_though_acknowledgements_are_lost() {
    // Not what the senders acknowledge: where the first of that is lost, the kernel knows of no
    // connection yet.
    with_loss(&format!("{DATA} ip saddr 127.0.0.9 {ANY}"), || {
        for (session, sent) in shutdown::term_in_mid_flood(&["127.0.0.9:0"]) {
            let heard_of = sent.bytes.len() - sent.unacknowledged;
            assert!(session.bytes.len() >= heard_of, "{}", sent.name);
            assert!(sent.bytes.starts_with(&session.bytes), "{}", sent.name);
        }
    });
}

/// Of a connection that is reset before its first acknowledgement arrives nobody hears; so these are not
/// lost.
#[test]
fn what_was_captured_is_captured_again_though_packets_are_lost() {
    with_loss(&format!("{DATA} {ENDS}"), || {
        let recorded = recorded(&[]);
        let folder = recorded.folder.path();
        let args = ["a.ndjson", "TARGET", "--speed", "max"];
        let (ended, found) = captured(|command| command.current_dir(folder), &args);
        check_whole(&ended, SESSIONS);
        let expected = essences(&records(&recorded.path("a.ndjson")));
        let (reset, orderly) = split(found);
        let (expected_reset, expected_orderly) = split(expected);
        assert!(orderly == expected_orderly);
        // A reset throws away what was lost of the last few packets.
        assert_eq!(reset.len(), expected_reset.len());
        for (bytes, ..) in &reset {
            let is_beginning =
                |whole: &Essence| whole.0.starts_with(bytes) && whole.0.len() - bytes.len() < 4096;
            assert!(expected_reset.iter().any(is_beginning), "{}", bytes.len());
        }
    });
}

/// Sessions that were reset, and those that ended in good order: who was not heard to its end, because
/// that was lost, is played so, too.
fn split(mut all: Vec<Essence>) -> (Vec<Essence>, Vec<Essence>) {
    for (_, has_ended, reason, ..) in &mut all {
        if reason == "Shutdown" {
            (*has_ended, *reason) = (true, "Eof".to_owned());
        }
    }
    let is_reset = |essence: &Essence| essence.2 == "Reset";
    sorted(all).into_iter().partition(is_reset)
}

#[test]
fn conversations_pass_a_proxy_unchanged_though_packets_are_lost() {
    with_loss(ANY, proxy::check_conversations);
}
