//! The relay by scripts: what happened on the left, what it wants then on the right.

use super::*;
use Side::{Peer, Target};

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Connected,
    Unreachable,
    /// What it wanted was done, and there is nothing to tell.
    Done,
    Readable(Side),
    Writable(Side),
    /// Bytes were read from this side, and all of them went on. There may be more.
    Went(Side),
    /// Bytes were read from this side, and these were not taken. There may be more.
    Short(Side, &'static str),
    /// Bytes were read from this side, went on, and were all there is for now.
    Last(Side),
    Nothing(Side),
    Left(Side),
    /// The end of this side was read, and is told, for the first time.
    Fin(Side),
    /// It was read once more.
    FinAgain(Side),
    Rst(Side),
    Flushed(Side, usize),
    WriteFailed(Side),
    Sent(Side),
    NotSent(Side),
    Retire,
    Impatience,
}
use Step::{
    Connected, Done, Fin, FinAgain, Flushed, Impatience, Last, Left, NotSent, Nothing, Readable,
    Retire, Rst, Sent, Short, Unreachable, Went, Writable, WriteFailed,
};

fn in_words(relay: &Relay, command: &Command) -> String {
    match command {
        Command::Flush(side) => {
            let held = String::from_utf8_lossy(relay.held(*side));
            format!("Flush({side:?}) {held:?}")
        }
        Command::Close { reason, resets } => {
            let resets = match resets {
                [false, false] => "nobody",
                [true, false] => "Peer",
                [false, true] => "Target",
                [true, true] => "both",
            };
            format!("Close({reason:?}), resets {resets}")
        }
        other => format!("{other:?}"),
    }
}

fn happen(relay: &mut Relay, step: Step) {
    let error = |text: &str| CloseReason::Error(text.into());
    let went = |rest: &'static str, may_be_more| Got::Bytes {
        rest: rest.as_bytes(),
        may_be_more,
    };
    let (side, got) = match step {
        Connected => return relay.handle_connected(),
        Unreachable => return relay.handle_unreachable(error("refused")),
        Done => return,
        Readable(side) => return relay.handle_readable(side),
        Writable(side) => return relay.handle_writable(side),
        Flushed(side, len) => return relay.handle_flushed(side, len),
        WriteFailed(side) => return relay.handle_write_failed(side, error("broken pipe")),
        Sent(side) => return relay.handle_sent(side, true),
        NotSent(side) => return relay.handle_sent(side, false),
        Retire => return relay.handle_retire(CloseReason::Shutdown),
        Impatience => return relay.handle_impatience(),
        Went(side) => (side, went("", true)),
        Short(side, rest) => (side, went(rest, true)),
        Last(side) => (side, went("", false)),
        Nothing(side) => (side, Got::Nothing),
        Left(side) => (side, Got::Left),
        Fin(side) | FinAgain(side) => (side, Got::End),
        Rst(Peer) => (Peer, Got::Broken(CloseReason::Reset)),
        Rst(Target) => (Target, Got::Broken(CloseReason::TargetReset)),
    };
    let is_told = relay.handle_read(side, got);
    assert_eq!(is_told, matches!(step, Fin(_)), "{step:?}");
}

/// Each step, and what is wanted after it: a command, or nothing.
fn check(script: &[(Step, &str)]) {
    let mut relay = Relay::new();
    assert_eq!(relay.poll(), None, "nobody is there");
    for (nth, &(step, expected)) in script.iter().enumerate() {
        happen(&mut relay, step);
        let command = relay.poll();
        let words = command.map(|command| in_words(&relay, &command));
        let words = words.unwrap_or_default();
        assert_eq!(words, expected, "after step {nth}, {step:?}");
    }
}

#[test]
fn a_half_close_is_passed_on_behind_the_last_byte_and_the_other_way_goes_on() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Short(Peer, "abc"), "Pass(Target)"),
        // The peer's end waits in the kernel behind what is held.
        (Nothing(Target), ""),
        (Readable(Peer), ""),
        (Writable(Target), "Flush(Target) \"abc\""),
        (Flushed(Target, 1), ""),
        (Writable(Target), "Flush(Target) \"bc\""),
        (Flushed(Target, 2), "Pass(Peer)"),
        (Fin(Peer), "End(Target)"),
        (Done, ""),
        (Readable(Target), "Pass(Target)"),
        (Short(Target, "d"), ""),
        (Writable(Peer), "Flush(Peer) \"d\""),
        (Flushed(Peer, 1), "Pass(Target)"),
        (Last(Target), ""),
        (Readable(Target), "Pass(Target)"),
        (Fin(Target), "End(Peer)"),
        (Done, "Close(Eof), resets nobody"),
    ]);
}

#[test]
fn both_ends_in_one_turn_are_told_before_the_close() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Fin(Peer), "End(Target)"),
        (Done, "Pass(Target)"),
        (Fin(Target), "End(Peer)"),
        (Done, "Close(Eof), resets nobody"),
    ]);
}

#[test]
fn what_the_target_sent_before_its_reset_goes_first() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Nothing(Peer), "Pass(Target)"),
        (Short(Target, "ab"), ""),
        (Writable(Peer), "Flush(Peer) \"ab\""),
        (Flushed(Peer, 2), "Pass(Target)"),
        (Rst(Target), "Deafen(Peer)"),
        // What the peer had sent is recorded, and goes nowhere.
        (Done, "Drain(Peer)"),
        (Went(Peer), "Drain(Peer)"),
        (Nothing(Peer), "AwaitSent(Peer)"),
        (NotSent(Peer), ""),
        (Writable(Peer), "AwaitSent(Peer)"),
        (Sent(Peer), "Close(TargetReset), resets Peer"),
    ]);
}

#[test]
fn a_peer_that_resets_has_its_target_reset() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Went(Peer), "Pass(Target)"),
        (Nothing(Target), "Pass(Peer)"),
        (Rst(Peer), "Deafen(Target)"),
        (Done, "Drain(Target)"),
        (Went(Target), "Drain(Target)"),
        (Nothing(Target), "AwaitSent(Target)"),
        // The kernel's word of the reset is late: the peer is not read again.
        (Readable(Peer), "AwaitSent(Target)"),
        (Writable(Peer), "AwaitSent(Target)"),
        (Sent(Target), "Close(Reset), resets Target"),
    ]);
}

#[test]
fn after_a_failed_write_what_the_side_had_sent_is_passed_on() {
    check(&[
        (Connected, "Pass(Peer)"),
        // Recorded, and then not written.
        (Went(Peer), "Pass(Target)"),
        (Nothing(Target), "Pass(Peer)"),
        (WriteFailed(Target), "Deafen(Peer)"),
        (Done, "Deafen(Target)"),
        (Done, "Drain(Peer)"),
        (Nothing(Peer), "Pass(Target)"),
        (Short(Target, "b"), ""),
        (Writable(Peer), "Flush(Peer) \"b\""),
        (Flushed(Peer, 1), "Pass(Target)"),
        // The write has told the reset, so that this reads as an end. It is none.
        (FinAgain(Target), "AwaitSent(Peer)"),
        (Sent(Peer), "Close(Error(\"broken pipe\")), resets Peer"),
    ]);
}

#[test]
fn a_flush_may_fail_too() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Short(Peer, "a"), "Pass(Target)"),
        (Nothing(Target), ""),
        (Writable(Target), "Flush(Target) \"a\""),
        (WriteFailed(Target), "Deafen(Peer)"),
        (Done, "Deafen(Target)"),
        (Done, "Drain(Peer)"),
        (Fin(Peer), "Pass(Target)"),
        (Rst(Target), "AwaitSent(Peer)"),
        (Sent(Peer), "Close(Error(\"broken pipe\")), resets Peer"),
    ]);
}

#[test]
fn what_was_sent_to_a_target_that_cannot_be_reached_is_recorded() {
    check(&[
        (Readable(Peer), ""),
        (Unreachable, "Deafen(Peer)"),
        (Done, "Drain(Peer)"),
        (Went(Peer), "Drain(Peer)"),
        // As far as is known there is no more: of a deaf side that takes another look.
        (Last(Peer), "Drain(Peer)"),
        (Readable(Target), "Drain(Peer)"),
        (Nothing(Peer), "AwaitSent(Peer)"),
        (Sent(Peer), "Close(Error(\"refused\")), resets Peer"),
    ]);
}

#[test]
fn word_of_a_target_that_was_never_there_is_no_reason_to_read_it() {
    check(&[
        (Unreachable, "Deafen(Peer)"),
        (Readable(Target), "Drain(Peer)"),
        (Fin(Peer), "AwaitSent(Peer)"),
        (Sent(Peer), "Close(Error(\"refused\")), resets Peer"),
    ]);
}

#[test]
fn retired_while_the_target_is_dialled_the_peer_is_reset() {
    check(&[
        (Retire, "Deafen(Peer)"),
        (Done, "Drain(Peer)"),
        (Went(Peer), "Drain(Peer)"),
        (Nothing(Peer), "AwaitSent(Peer)"),
        (Sent(Peer), "Close(Shutdown), resets Peer"),
    ]);
}

#[test]
fn retired_it_passes_on_what_there_is_and_nobody_is_reset() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Short(Peer, "ab"), "Pass(Target)"),
        (Last(Target), ""),
        (Retire, "Deafen(Peer)"),
        (Done, "Deafen(Target)"),
        (Done, "Pass(Target)"),
        (Last(Target), "Pass(Target)"),
        (Nothing(Target), ""),
        (Writable(Target), "Flush(Target) \"ab\""),
        (Flushed(Target, 2), "Pass(Peer)"),
        (Last(Peer), "Pass(Peer)"),
        // Closed before that, a side that sends anything would lose what is on its way to it.
        (Nothing(Peer), "AwaitSent(Peer)"),
        (Sent(Peer), "AwaitSent(Target)"),
        (NotSent(Target), ""),
        (Writable(Target), "AwaitSent(Target)"),
        (Sent(Target), "Close(Shutdown), resets nobody"),
    ]);
}

#[test]
fn retired_between_the_ends_only_who_has_not_ended_is_deafened() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Fin(Peer), "End(Target)"),
        (Retire, "Deafen(Target)"),
        (Done, "Pass(Target)"),
        // A bare FIN comes through.
        (Fin(Target), "AwaitSent(Peer)"),
        (Sent(Peer), "AwaitSent(Target)"),
        (Sent(Target), "Close(Shutdown), resets nobody"),
    ]);
}

#[test]
fn who_is_behind_when_patience_ends_is_reset() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Short(Peer, "ab"), "Pass(Target)"),
        (Nothing(Target), ""),
        (Retire, "Deafen(Peer)"),
        (Done, "Deafen(Target)"),
        (Done, "Pass(Target)"),
        (Nothing(Target), ""),
        (Impatience, "Drain(Peer)"),
        (Writable(Target), "Drain(Peer)"),
        (Went(Peer), "Drain(Peer)"),
        (Nothing(Peer), "Close(Shutdown), resets Target"),
    ]);
    // What was left in the kernel counts as well.
    check(&[
        (Connected, "Pass(Peer)"),
        (Nothing(Peer), "Pass(Target)"),
        (Left(Target), ""),
        (Retire, "Deafen(Peer)"),
        (Done, "Deafen(Target)"),
        (Done, "Pass(Peer)"),
        (Nothing(Peer), ""),
        (Impatience, "Drain(Target)"),
        (Went(Target), "Drain(Target)"),
        (Nothing(Target), "Close(Shutdown), resets Peer"),
    ]);
}

#[test]
fn patience_ends_for_what_is_not_on_its_way_too() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Nothing(Peer), "Pass(Target)"),
        (Rst(Target), "Deafen(Peer)"),
        (Done, "Drain(Peer)"),
        (Nothing(Peer), "AwaitSent(Peer)"),
        (NotSent(Peer), ""),
        (Impatience, "Close(TargetReset), resets Peer"),
    ]);
}

#[test]
fn sides_that_both_flood_take_turns() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Went(Peer), "Pass(Target)"),
        (Went(Target), "Pass(Peer)"),
        (Went(Peer), "Pass(Target)"),
        // One that is held up does not hold up the other.
        (Left(Target), "Pass(Peer)"),
        (Went(Peer), "Pass(Peer)"),
        (Went(Peer), "Pass(Peer)"),
        (Writable(Peer), "Pass(Target)"),
        (Went(Target), "Pass(Peer)"),
    ]);
}

#[test]
fn an_ended_side_may_be_reset_later() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Fin(Peer), "End(Target)"),
        (Done, "Pass(Target)"),
        (Went(Target), "Pass(Target)"),
        (Nothing(Target), ""),
        (Readable(Peer), "Pass(Peer)"),
        // It was not; its end is told once.
        (FinAgain(Peer), ""),
        (Readable(Peer), "Pass(Peer)"),
        (Rst(Peer), "Deafen(Target)"),
        (Done, "Drain(Target)"),
        (Went(Target), "Drain(Target)"),
        (Nothing(Target), "AwaitSent(Target)"),
        (Sent(Target), "Close(Reset), resets Target"),
    ]);
}

#[test]
fn what_ends_it_first_is_the_reason_and_resets_add_up() {
    check(&[
        (Connected, "Pass(Peer)"),
        (Nothing(Peer), "Pass(Target)"),
        (Short(Target, "a"), ""),
        (Retire, "Deafen(Peer)"),
        (Done, "Deafen(Target)"),
        (Done, "Pass(Peer)"),
        (Rst(Peer), "Drain(Target)"),
        (Rst(Target), "Close(Shutdown), resets both"),
    ]);
}
