//! What makes no sense or cannot be is refused in one line, before anything is created or changed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use crate::tape::{eventually, listen_command};

/// Runs it, and demands a status, one line that holds `expected`, and an unchanged folder.
fn check(args: &[&str], status: i32, expected: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check_in(folder.path(), args, status, expected);
    let left = fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(left, 0, "{args:?} left something");
}

fn check_in(folder: &Path, args: &[&str], status: i32, expected: &str) {
    let child = listen_command(args)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("it starts");
    // One that is not refused runs for ever.
    eventually("it is refused", || child.try_wait().expect("it is a child"));
    let output = child.wait_with_output().expect("it has ended");
    let said = String::from_utf8(output.stderr).expect("it is text");
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.contains(expected), "{said} does not say {expected}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("wiretape: "), "{said}");
}

#[test]
fn addresses_that_cannot_be_listened_on() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("it has one").to_string();
    let in_use = format!("cannot listen on {taken}: address already in use");
    let args = ["127.0.0.1:0", taken.as_str(), "-o", "a.ndjson"];
    check(&args, 1, &in_use);
    let args = ["127.0.0.1:0", "no-such-host.invalid:1", "-o", "a.bin"];
    check(&args, 1, "cannot resolve no-such-host.invalid:1: ");
    check(
        &["127.0.0.1:0", "192.0.2.1:1", "-o", "a"],
        1,
        "cannot listen on 192.0.2.1:1: cannot assign requested address",
    );
    check(
        &[&taken, &taken],
        2,
        &format!("{taken} is given twice: once is enough"),
    );
    check(
        &["unix:no/such/socket"],
        1,
        "cannot listen on unix:no/such/socket: no such file or directory",
    );
}

#[test]
fn outputs_that_cannot_be_opened() {
    check(
        &["-o", "a.ndjson", "-o", "no/such/b.ndjson"],
        1,
        "cannot open no/such/b.ndjson: no such file or directory (create the folder no/such first)",
    );
    check(
        &["-o", "a.ndjson", "-o", "/"],
        1,
        "cannot open /: is a directory",
    );
    check(
        &["unix:s", "-o", "a", "-o", "/proc/none"],
        1,
        "cannot open /proc/none: ",
    );
}

#[test]
fn outputs_that_contradict_each_other() {
    check(
        &["-o", "a.log", "-o", "json:./a.log"],
        2,
        "-o a.log and -o json:./a.log write to the same file",
    );
    check(
        &["--json", "--hex"],
        2,
        "--json and --hex both write to standard output",
    );
    check(
        &["-o", "xml:a"],
        2,
        "no format is called xml: there are text, hex, json and raw",
    );
    check(
        &["-o", "{peer}.bin"],
        2,
        "{peer} is not known; there are {conn}",
    );
    check(
        &["-o", "a", "--keep", "3"],
        2,
        "add --rotate or --rotate-every",
    );
    check(&["--rotate", "1MiB"], 2, "there is only standard output");
    check(
        &["-o", "a", "--rotate", "100"],
        2,
        "is a unit missing, as in 100MiB?",
    );
    check(
        &["--frame", "line", "--frame-max", "2MiB"],
        2,
        "--frame-max 2.0 MiB: a record holds 1 byte to 1.0 MiB",
    );
}

#[test]
fn one_file_by_two_names_is_found_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A link of the user's that leads nowhere yet stays, whatever fails behind it.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("target", &link).expect("it is new");
    check_in(
        folder.path(),
        &["-o", "link", "-o", "no/such"],
        1,
        "cannot open no/such",
    );
    assert!(link.is_symlink());

    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    fs::write(&one, "kept").expect("it is new");
    fs::hard_link(&one, &other).expect("it is new");
    let args = ["-o", "new", "-o", "one", "-o", "other"];
    check_in(
        folder.path(),
        &args,
        1,
        "outputs one and other are the same file",
    );
    assert_eq!(fs::read(&one).expect("it is there"), b"kept");
    assert!(!folder.path().join("new").exists());
}

/// What clap says takes more than a line: the mistake, and how to ask for help.
#[test]
fn who_may_connect_is_not_for_unix_sockets_to_say() {
    for flag in ["--allow", "--deny"] {
        let said = format!("{flag}: peers of a Unix socket have no IP address");
        check(&["unix:x", flag, "10.0.0.0/8"], 2, &said);
    }
    let args = ["unix:x", "unix:y", "--max-conns-per-ip", "1"];
    check(&args, 2, "--max-conns-per-ip: peers of a Unix socket");
}

#[test]
fn arguments_that_are_not_understood() {
    for (args, expected) in [
        (
            &["127.0.0.1:0", "localhost"][..],
            "an address is PORT, HOST:PORT",
        ),
        (
            &["127.0.0.1:0", "::1"],
            "an IPv6 address stands in brackets",
        ),
        (&["--drain", "5 parsecs"], "--drain"),
        (&["--max-conns", "0"], "--max-conns"),
        (&["--buffer", "many"], "--buffer"),
        (&["--idle-timeout", "0s"], "longer than zero"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let output = listen_command(args).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said} does not say {expected}");
    }
}
