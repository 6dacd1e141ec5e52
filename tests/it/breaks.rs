//! `proxy` when a side breaks off while much is under way, and ends that are told too early.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;

use rustix::process::Signal;
use wiretape::record::CloseReason;

use crate::hand::{Heard, Target, reset};
use crate::kernel::unacknowledged;
use crate::shutdown::{send_until_reset, until_held};
use crate::stalls::holding;
use crate::talk::{
    Conversation, IN, OUT, Port, accept, call, captured, check_status, hear, proxy, random,
    until_written,
};
use crate::tape::{Tape, eventually};

/// It is gone while what it had sent waits for a target that does not read yet.
#[test]
fn what_a_client_had_sent_that_was_killed_is_captured_and_passed_on() {
    const SENT: usize = 150_000;
    let (address, held) = holding();
    let tape = proxy(&address, &[]);
    let mut stream = call(&tape.addresses[0]);
    let at_target = held.recv().expect("the target is connected to");
    stream
        .write_all(&random(1, SENT))
        .expect("the kernel takes it");
    eventually("it is all acknowledged", || {
        (unacknowledged(&stream) == 0).then_some(())
    });
    reset(stream);
    let heard = Heard::listen(&at_target);
    until_written(&tape.path("a.ndjson"), "\"close\"", 1);
    let found = captured(&tape.stop());
    assert_eq!(found[0].reason(), CloseReason::Reset);
    assert_eq!(found[0].bytes[IN].len(), SENT);
    assert!(found[0].bytes[IN] == random(1, SENT));
    assert_eq!(heard.error, Some(ErrorKind::ConnectionReset));
    assert_eq!(heard.bytes.len(), SENT);
}

/// A side that resets while the other one floods it: what is captured of it.
fn reset_in_mid_flood(who: usize) -> Conversation {
    let port = Port::new();
    let listener = port.listen();
    let tape = proxy(&port.address(), &[]);
    let client = call(&tape.addresses[0]);
    let server = accept(&listener);
    let (resetting, flooding) = match who {
        IN => (client, server),
        _ => (server, client),
    };
    let watched = flooding.try_clone().expect("a second handle");
    let sender = send_until_reset(flooding, 1);
    until_held(&watched);
    reset(resetting);
    until_written(&tape.path("a.ndjson"), "\"close\"", 1);
    sender.join().expect("it ends with the connection");
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    captured(&ended).remove(0)
}

#[test]
fn a_side_that_resets_in_mid_flood_is_the_reason() {
    assert_eq!(reset_in_mid_flood(IN).reason(), CloseReason::Reset);
    assert_eq!(reset_in_mid_flood(OUT).reason(), CloseReason::TargetReset);
}

#[test]
fn a_side_that_resets_in_mid_flood_has_not_ended_its_direction() {
    for who in [IN, OUT] {
        let talk = reset_in_mid_flood(who);
        assert!(talk.ends.is_empty(), "{:?} {:?}", talk.ends, talk.close);
    }
}

/// It cannot be read to its reset, for nobody takes what stands before that.
#[test]
fn a_client_that_resets_while_the_target_reads_nothing_is_let_go_of() {
    let (address, held) = holding();
    let tape = proxy(&address, &[]);
    let client = call(&tape.addresses[0]);
    let at_target = held.recv().expect("the target is connected to");
    client.set_nonblocking(true).expect("it is a socket");
    // What is not taken at once is not sent.
    let mut quiet = 0;
    eventually("nothing more is taken", || {
        let taken = (&client).write(&[b'x'; 65536]);
        quiet = if taken.is_ok() { 0 } else { quiet + 1 };
        (quiet > 200).then_some(())
    });
    reset(client);
    until_written(&tape.path("a.ndjson"), "\"close\"", 1);
    let heard = Heard::listen(&at_target);
    assert_eq!(heard.error, Some(ErrorKind::ConnectionReset));
    let found = captured(&tape.stop());
    assert_eq!(found[0].reason(), CloseReason::Reset);
    assert!(found[0].bytes[IN].starts_with(&heard.bytes));
}

// --- told to stop --------------------------------------------------------------------------------

/// A client has not read its answer when the run is told to stop; it `floods` the target, or not.
fn answered_late(floods: bool) {
    const ANSWER: usize = 150_000;
    let (tell, told) = std::sync::mpsc::channel();
    let target = Target::serve(move |_, mut stream| {
        let heard = hear(&stream);
        stream.write_all(&random(1, ANSWER)).expect("it reads");
        eventually("it is all acknowledged", || {
            (unacknowledged(&stream) == 0).then_some(())
        });
        tell.send(()).expect("the test waits");
        heard.join().expect("it ends with the connection")
    });
    let mut tape = proxy(&target.address, &[]);
    let client = call(&tape.addresses[0]);
    let reading = client.try_clone().expect("a second handle");
    let sender = floods.then(|| send_until_reset(client, 1));
    told.recv().expect("the target has answered");
    // The proxy has read all of it.
    until_recorded(&mut tape, ANSWER);
    tape.signal(Signal::TERM);
    tape.wait_for_line("stopping");
    let ended = tape.wait();
    check_status(&ended, 0, &[]);
    let heard = Heard::listen(&reading);
    // The kernel that has delivered this takes nothing more, and says so only in a minute.
    reading.shutdown(Shutdown::Both).expect("it is connected");
    let sent = sender.map(|sender| sender.join().expect("it ends with the connection"));
    let found = captured(&ended);
    assert_eq!(found[0].bytes[OUT].len(), ANSWER);
    assert_eq!(heard.bytes.len(), ANSWER, "{:?}", heard.error);
    assert_eq!(heard.error, None);
    let (_, at_target) = target.result();
    let sent = sent.map(|sent| sent.bytes).unwrap_or_default();
    assert!(at_target.bytes == found[0].bytes[IN] && sent.starts_with(&at_target.bytes));
}

/// Waits until the run's statistics tell of so many bytes that went out.
fn until_recorded(tape: &mut Tape, bytes: usize) {
    let kib = format!("{:.1} KiB out", bytes as f64 / 1024.0);
    eventually("the answer is recorded", || {
        tape.signal(Signal::USR1);
        let line = tape.wait_for_line("records");
        line.contains(&kib).then_some(())
    });
}

#[test]
fn an_answer_that_a_client_reads_late_is_not_lost_when_the_run_stops() {
    answered_late(false);
}

#[test]
fn an_answer_that_a_flooding_client_reads_late_is_not_lost_either() {
    answered_late(true);
}
