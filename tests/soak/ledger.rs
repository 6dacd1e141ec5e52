//! What was recorded against what both ends of every connection know.

use std::collections::BTreeMap;

use wiretape::record::CloseReason;

use crate::capture::{Capture, Recorded, Run};
use crate::life::Lived;
use crate::plan::{Ending, Plan};
use crate::talk::{Parting, Told};

/// A connection as all who had to do with it know it.
struct Case<'a> {
    plan: &'a Plan,
    life: &'a Lived,
    client: &'a Told,
    server: Option<&'a Told>,
}

/// Holds a capture against the lives that it is of.
pub fn check(plan: &Plan, lives: &[Lived], capture: &Capture) {
    let mut life_of: BTreeMap<u32, usize> = BTreeMap::new();
    for (nth, life) in lives.iter().enumerate() {
        life_of.extend(life.clients.iter().map(|told| (told.id, nth)));
    }
    let mut runs: Vec<Vec<&Run>> = vec![Vec::new(); lives.len()];
    for run in &capture.runs {
        let mut clients = run.conns.values().map(|recorded| life_of[&recorded.client]);
        // Who has been killed before anybody came is known by nobody.
        if let Some(life) = clients.next() {
            assert!(clients.all(|other| other == life), "a run of two lives");
            runs[life].push(run);
        }
    }
    for (life, runs) in lives.iter().zip(runs) {
        assert!(runs.len() <= 1, "one life, {} runs", runs.len());
        check_life(plan, life, runs.first().copied());
    }
}

fn check_life(plan: &Plan, life: &Lived, run: Option<&Run>) {
    let is_whole = matches!(life.ending, Ending::Quiet | Ending::Term);
    let mut recorded: BTreeMap<u32, &Recorded> = BTreeMap::new();
    if let Some(run) = run {
        assert!(run.is_ended || !is_whole, "the run has no end");
        for conn in run.conns.values() {
            let before = recorded.insert(conn.client, conn);
            assert!(before.is_none(), "client {} is there twice", conn.client);
        }
    }
    let has_gap = run.is_some_and(|run| run.missing.0 > 0);
    assert!(!has_gap || plan.may_miss());
    let servers: BTreeMap<u32, &Told> = life.servers.iter().map(|told| (told.id, told)).collect();
    for client in &life.clients {
        let case = Case {
            plan,
            life,
            client,
            server: servers.get(&client.id).copied(),
        };
        match recorded.get(&client.id) {
            Some(recorded) => case.check(recorded, is_whole, has_gap),
            None if is_whole && !has_gap => case.check_unknown(),
            None => {}
        }
    }
    if let (true, Some(run)) = (is_whole, run) {
        check_missing(life, run);
        let said = life
            .said
            .iter()
            .rfind(|line| line.contains("wiretape: ran "));
        let opened = format!("; {} connection", run.conns.len());
        let is_told = said.is_some_and(|line| line.contains(&opened));
        assert!(is_told || has_gap, "{opened}: {:?}", life.said);
    }
}

/// What the gaps say is missing is what is missing.
fn check_missing(life: &Lived, run: &Run) {
    let there: u64 = run.conns.values().map(|conn| conn.ways[0].len).sum();
    let sum = |bound: fn(&Told) -> u64| life.clients.iter().map(bound).sum::<u64>();
    let all = there + run.missing.1;
    let (least, most) = (sum(|told| told.least), sum(|told| told.most));
    if life.servers.is_empty() {
        assert!(
            (least..=most).contains(&all),
            "{all} of {least} to {most} bytes"
        );
    }
}

impl Case<'_> {
    fn check(&self, recorded: &Recorded, is_whole: bool, has_gap: bool) {
        let Self { client, server, .. } = self;
        let [came, went] = recorded.lens();
        let context = || format!("{recorded:?}\n{client:?}\n{server:?}");
        assert!(came <= client.most, "more than was sent: {}", context());
        assert!(
            !is_whole || has_gap || heard_of(client, went),
            "other answers than were recorded: {}",
            context()
        );
        match server {
            Some(server) => {
                assert!(went <= server.most, "more than was answered: {}", context());
                assert!(
                    !is_whole || has_gap || heard_of(server, came),
                    "passed on is not what was recorded: {}",
                    context()
                );
            }
            None => assert_eq!(went, 0, "{}", context()),
        }
        let Some(close) = &recorded.close else {
            return assert!(!is_whole || has_gap, "no close: {}", context());
        };
        let is_right = match &close.reason {
            CloseReason::Eof => self.ended_well(came, went),
            CloseReason::Reset => self.was_reset(client),
            CloseReason::TargetReset => server.is_some_and(|server| self.was_reset(server)),
            CloseReason::IdleTimeout | CloseReason::Limit => {
                self.plan.has_limits && self.ended_exactly()
            }
            CloseReason::Shutdown => self.life.ending != Ending::Quiet && self.ended_exactly(),
            // Who is accepted with the last descriptor leaves none for the target.
            CloseReason::Error(cause) => {
                self.plan.kind.is_proxy() && cause.ends_with("too many open files")
            }
            _ => false,
        };
        assert!(is_right, "{}", context());
        let is_kept = close.reason != CloseReason::TargetReset;
        assert!(
            came >= client.least || !is_kept,
            "acknowledged and not recorded: {}",
            context()
        );
        let is_kept = close.reason != CloseReason::Reset && is_kept;
        let least = server.map_or(0, |server| server.least);
        assert!(
            went >= least || !is_kept,
            "acknowledged and not recorded: {}",
            context()
        );
    }

    /// Both sides ended in good order, if only in answer to the other's end, and everything that they had
    /// sent is there.
    fn ended_well(&self, came: u64, went: u64) -> bool {
        let ended = |told: &Told| told.parting != Parting::Reset;
        let is_client = ended(self.client) && came == self.client.sent;
        let is_server = |server: &Told| ended(server) && went == server.sent;
        is_client && self.server.is_none_or(is_server)
    }

    /// A client that was cut off was told behind which byte, unless its server had gone.
    fn ended_exactly(&self) -> bool {
        let Self { client, .. } = self;
        client.parting != Parting::Cut || client.heard_end || self.plan.kind.is_proxy()
    }

    /// This side reset it, or closed it and took no answer any more.
    fn was_reset(&self, told: &Told) -> bool {
        match told.parting {
            Parting::Reset => true,
            Parting::Vanished => self.server.is_some(),
            Parting::Finished | Parting::Cut => false,
        }
    }

    /// Nothing is known of a client that the kernel had not made known either when it all ended.
    fn check_unknown(&self) {
        let client = self.client;
        let came_late = client.at >= self.life.told_at && client.least == 0;
        assert!(came_late, "not recorded: {client:?}");
    }
}

/// Whether an end can have heard what it has, of so many bytes that were recorded: all of them, if they
/// ended in good order.
fn heard_of(told: &Told, recorded: u64) -> bool {
    match told.heard_end {
        true => told.heard == recorded,
        false => told.heard <= recorded,
    }
}
