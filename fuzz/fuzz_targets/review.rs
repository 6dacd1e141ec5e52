//! Records as no capture would hold them, reviewed: whatever they say, the books are kept.
//!
//! * Nothing panics, and no more connections are open than records have spoken of.
//! * Every connection comes out as a session, and all of its bytes and records are in the sums.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wiretape::record::selection::Selection;
use wiretape::record::{Direction, Event};
use wiretape::review::{Review, State};
use wiretape_fuzz::Records;

fuzz_target!(|files: Vec<Records>| {
    let mut review = Review::new(Selection::default());
    let (mut sessions, mut torn, mut found, mut reported) = (0, 0, 0, 0);
    let (mut of_conns, mut in_bytes) = (0, 0);
    for Records(records) in &files {
        review.handle_file();
        for (nth, record) in records.iter().enumerate() {
            review.handle_record(nth as u64 + 1, record);
            of_conns += u64::from(record.event.conn().is_some());
            if let Event::Data {
                direction: Direction::In,
                payload,
                ..
            } = &record.event
            {
                in_bytes += payload.len() as u64;
            }
            assert!(review.open() as u64 <= of_conns);
        }
        reported += review.handle_file_end(records.len() as u64).findings;
        while let Some(finding) = review.poll_finding() {
            found += 1;
            assert!(!finding.flaw.to_string().is_empty());
        }
    }
    review.handle_end();
    while let Some(session) = review.poll_session() {
        sessions += 1;
        torn += u64::from(session.state != State::Whole);
    }
    let totals = review.totals();
    assert_eq!(review.open(), 0);
    assert_eq!(found, reported);
    assert_eq!((totals.sessions, totals.torn), (sessions, torn));
    assert_eq!((totals.records, totals.in_bytes), (of_conns, in_bytes));
});
