//! Devices that listen: dialled, listened to, asked, and dialled again whenever they are lost.

use std::io;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;

use super::address::Address;
use super::dial::{self, Connected};
use super::recorder::Recorder;
use super::stream::{Stream, broken};
use super::turn::{Caller, Calls, Engine, Kind};
use super::{Error, Outcome, Recording, Wakers, random_u64, start_record, system};
use crate::capture::Slot;
use crate::capture::shutdown::Phase;
use crate::dial::backoff::Backoff;
use crate::notice::{Cause, Notice, Notify, Then, describe};
use crate::output;
use crate::record::deadline::Deadlines;
use crate::record::time::{Clock, micros};
use crate::record::{CloseReason, ConnId, Direction, Endpoints};
use crate::relay::Side;

/// Whom to dial, and what to do then.
#[derive(Clone, Debug)]
pub struct Config {
    /// Devices, each of which is dialled.
    pub targets: Vec<Address>,
    /// The first delay before one that was lost, or did not answer, is dialled again; `None` where it is
    /// not.
    pub reconnect: Option<Duration>,
    /// What a device is sent.
    pub message: Option<Message>,
    /// How connections are made.
    pub dial: dial::Options,
    /// What becomes of what comes.
    pub recording: Recording,
}

/// What a device is sent once it is connected.
#[derive(Clone, Debug)]
pub struct Message {
    /// The bytes; at least one.
    pub bytes: Arc<[u8]>,
    /// How long after one time it is sent again; `None` where it is a greeting.
    pub every: Option<Duration>,
}

/// Captures what devices send that are dialled, until told to stop.
///
/// # Errors
/// [`Error`]. Where no device is dialled again, it is one that none could be connected to.
pub fn connect(config: &Config, notify: &Notify) -> Result<Outcome, Error> {
    let recording = &config.recording;
    let opened =
        output::open_all(&recording.outputs, &recording.output_options).map_err(Error::Output)?;
    let mut wakers = Wakers::new()?;
    wakers.watch_signals()?;
    let names = config.targets.iter().map(ToString::to_string).collect();
    let start = start_record("connect", Vec::new(), names)?;
    let recorder = Recorder::start(recording, opened, &wakers.doorbell, start, notify)?;
    let calls = Calls {
        options: config.dial,
        devices: Devices::new(config)?,
        proxy: None,
    };
    Engine::new(wakers, Vec::new(), recorder, calls, notify.clone())?.run()
}

/// The devices of a run; none, where it does not dial.
#[derive(Debug, Default)]
pub(super) struct Devices {
    devices: Vec<Device>,
    reconnects: bool,
    message: Option<Message>,
    /// Devices that are to be dialled again.
    redials: Deadlines<usize>,
    /// Connections whose device is to be asked again.
    sends: Deadlines<(Slot, ConnId)>,
    /// Why the first that was given up could not be connected to.
    given_up: Option<String>,
    /// Whether any has ever been connected.
    has_connected: bool,
}

#[derive(Debug)]
struct Device {
    address: Address,
    stage: Stage,
    backoff: Backoff,
    /// Why it does not answer.
    cause: Cause,
    has_connected: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dialling,
    Open,
    /// It is dialled again at this time.
    Waiting(u64),
    /// It is not dialled any more.
    Done,
}

/// A connection to a device.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) stream: Stream,
    device: usize,
    sending: Option<Sending>,
    /// It has sent something.
    pub(super) has_spoken: bool,
    /// It cannot be written to any more, for this reason; what it has sent is read first.
    pub(super) broken: Option<CloseReason>,
}

/// A message on its way to a device.
#[derive(Debug)]
struct Sending {
    /// Bytes of it that the kernel has taken.
    at: usize,
    /// The kernel takes nothing now.
    is_blocked: bool,
    /// When the message is due again.
    next_us: Option<u64>,
}

impl Line {
    pub(super) fn latch(&mut self, event: &Event) {
        self.stream.latch(event);
        if let Some(sending) = self.sending.as_mut().filter(|_| event.is_writable()) {
            sending.is_blocked = false;
        }
    }
}

impl Devices {
    fn new(config: &Config) -> Result<Self, Error> {
        let first_us = config.reconnect.map_or(0, micros);
        let mut devices = Self {
            reconnects: config.reconnect.is_some(),
            message: config.message.clone(),
            ..Self::default()
        };
        for (nth, address) in config.targets.iter().enumerate() {
            let seed = random_u64().map_err(system("draw a random number"))?;
            devices.redials.insert(0, nth);
            devices.devices.push(Device {
                address: address.clone(),
                stage: Stage::Waiting(0),
                backoff: Backoff::new(first_us, seed),
                cause: Cause::default(),
                has_connected: false,
            });
        }
        Ok(devices)
    }

    /// When something is to be done.
    pub(super) fn deadline_us(&self) -> Option<u64> {
        (self.redials.next().into_iter())
            .chain(self.sends.next())
            .min()
    }

    /// A device that is to be dialled now.
    fn due_for_dial(&mut self, now_us: u64) -> Option<usize> {
        let devices = &self.devices;
        let due = |nth: usize| match devices[nth].stage {
            Stage::Waiting(at_us) => Some(at_us),
            Stage::Dialling | Stage::Open | Stage::Done => None,
        };
        self.redials.expired(now_us, due)
    }

    /// Whether there were devices, and none is dialled any more.
    pub(super) fn are_done(&self) -> bool {
        let mut stages = self.devices.iter().map(|device| device.stage);
        !self.devices.is_empty() && stages.all(|stage| stage == Stage::Done)
    }

    /// How the run has ended, seen from the devices that were to be dialled but once.
    pub(super) fn verdict(&mut self, outcome: Outcome) -> Result<Outcome, Error> {
        match self.given_up.take() {
            None => Ok(outcome),
            Some(_) if self.has_connected => Ok(Outcome::NotWhole),
            Some(why) => Err(Error::Unreachable(why.into())),
        }
    }

    /// As many connections have been made as were wanted.
    fn dial_no_more(&mut self) {
        self.reconnects = false;
        // Whoever did not answer is not missed.
        self.given_up = None;
        let others = self.devices.iter_mut();
        for device in others.filter(|device| device.stage != Stage::Open) {
            device.stage = Stage::Done;
        }
    }

    /// Has a device wait for its next dial, or gives it up.
    fn rest(&mut self, nth: usize, now_us: u64) {
        let device = &mut self.devices[nth];
        if self.reconnects {
            let at_us = now_us.saturating_add(device.backoff.delay_us());
            device.stage = Stage::Waiting(at_us);
            self.redials.insert(at_us, nth);
        } else {
            device.stage = Stage::Done;
        }
    }
}

impl Engine {
    /// Dials whoever is due, and takes what dialling has come to.
    pub(super) fn dial(&mut self) {
        let now_us = self.clock.now().elapsed_us;
        self.dialler.handle_time(now_us);
        let is_running = self.recorder.capture.shutdown.phase() == Phase::Running;
        while let Some(nth) = self.devices.due_for_dial(now_us) {
            if is_running {
                let device = &mut self.devices.devices[nth];
                device.stage = Stage::Dialling;
                (self.dialler).dial(Caller::Device(nth), &device.address, now_us);
            }
        }
        // Where there is no room to record that it is open, whoever answered waits.
        while self.dialler.has_decided() && self.recorder.make_room(None) {
            match self.dialler.poll() {
                Some((Caller::Device(nth), outcome)) => self.handle_device(nth, outcome),
                Some((Caller::Peer(slot, id), outcome)) => self.handle_target(slot, id, outcome),
                None => break,
            }
        }
        self.ask_again(now_us);
    }

    fn handle_device(&mut self, nth: usize, outcome: dial::Outcome) {
        let now_us = self.clock.now().elapsed_us;
        let why = match outcome {
            dial::Outcome::Connected(connected) => match self.open_device(nth, connected) {
                Ok(()) => return,
                Err(error) => describe(&error),
            },
            dial::Outcome::Shortage(why) | dial::Outcome::Failed(why) => why,
        };
        let reconnects = self.devices.reconnects;
        let device = &mut self.devices.devices[nth];
        if device.cause.is_news(&why) {
            self.notify.say(Notice::ConnectFailed {
                target: device.address.to_string(),
                why: dial::said_of(&device.address.to_string(), &why).to_owned(),
                then: match reconnects {
                    true => Then::TriesAgain,
                    false => Then::GivesUp,
                },
            });
        }
        if !reconnects {
            self.devices.given_up.get_or_insert(why);
        }
        self.devices.rest(nth, now_us);
    }

    fn open_device(&mut self, nth: usize, connected: Connected) -> io::Result<()> {
        let now = self.clock.now();
        let Connected {
            mut stream,
            peer,
            local,
        } = connected;
        let name = self.devices.devices[nth].address.to_string();
        // Registered before it is recorded as open, in the place that it will have.
        let slot = self.recorder.capture.next_slot();
        let token = self.token(slot, Side::Peer);
        let message = &self.devices.message;
        stream.reregister(self.poll.registry(), token, message.is_some())?;
        let endpoints = Endpoints {
            conn: self.recorder.capture.next_conn(),
            peer: peer.as_str().into(),
            local: local.into(),
            target: Some(name.as_str().into()),
        };
        let id = endpoints.conn;
        let slot = self.recorder.capture.handle_open(endpoints, None, now);
        let sending = message.as_ref().map(|message| {
            let next_us = message.every.map(|every| now.elapsed_us + micros(every));
            if let Some(next_us) = next_us {
                self.devices.sends.insert(next_us, (slot, id));
            }
            Sending {
                at: 0,
                is_blocked: false,
                next_us,
            }
        });
        let line = Line {
            stream,
            device: nth,
            sending,
            has_spoken: false,
            broken: None,
        };
        self.insert(slot, id, Kind::Device(Box::new(line)));
        self.devices.has_connected = true;
        let device = &mut self.devices.devices[nth];
        device.stage = Stage::Open;
        let is_first = !std::mem::replace(&mut device.has_connected, true);
        if device.cause.is_over() || is_first {
            self.notify.say(Notice::Connected { target: name, peer });
        }
        if self.recorder.capture.has_opened_all() {
            self.devices.dial_no_more();
            self.dialler.cancel_all();
        }
        Ok(())
    }

    /// A device's connection is over.
    pub(super) fn lose(&mut self, line: Line, reason: &CloseReason) {
        let now_us = self.clock.now().elapsed_us;
        match line.sending {
            None => line.stream.close(reason),
            // A reset would throw away what the device has not taken yet.
            Some(_) => line.stream.finish(false),
        }
        if line.has_spoken {
            self.devices.devices[line.device].backoff.reset();
        }
        self.devices.rest(line.device, now_us);
    }

    // --- sending ---------------------------------------------------------------------------------

    /// Begins the messages that are due. Where the last one is still on its way, one is left out.
    fn ask_again(&mut self, now_us: u64) {
        let Some(message) = &self.devices.message else {
            return;
        };
        let (Some(every_us), len) = (message.every.map(micros), message.bytes.len()) else {
            return;
        };
        loop {
            let conns = &self.conns;
            let due = self.devices.sends.expired(now_us, |(slot, id)| {
                let conn = conns.get(slot.0)?.as_ref().filter(|conn| conn.id == id)?;
                match &conn.kind {
                    Kind::Device(line) => line.sending.as_ref()?.next_us,
                    Kind::Source(_) | Kind::Relayed(_) => None,
                }
            });
            let Some((slot, id)) = due else {
                return;
            };
            let Some(Some(conn)) = self.conns.get_mut(slot.0) else {
                continue;
            };
            if let Kind::Device(line) = &mut conn.kind {
                if let Some(sending) = &mut line.sending {
                    if sending.at == len {
                        sending.at = 0;
                    }
                    // What could not be sent in time is not sent twice.
                    let next_us = sending
                        .next_us
                        .unwrap_or(now_us)
                        .max(now_us.saturating_sub(every_us));
                    let next_us = next_us.saturating_add(every_us);
                    sending.next_us = Some(next_us);
                    self.devices.sends.insert(next_us, (slot, id));
                }
            }
            self.list(slot);
        }
    }

    /// Sends a device what is due, as far as it is taken.
    pub(super) fn send(&mut self, slot: Slot) {
        let Some(message) = &self.devices.message else {
            return;
        };
        let Some(Some(conn)) = self.conns.get_mut(slot.0) else {
            return;
        };
        let Kind::Device(line) = &mut conn.kind else {
            return;
        };
        let Line {
            stream,
            sending: Some(sending),
            broken: None,
            ..
        } = &mut **line
        else {
            return;
        };
        let rest = &message.bytes[sending.at..];
        let is_stopping = self.recorder.capture.shutdown.phase() != Phase::Running;
        if rest.is_empty() || sending.is_blocked || is_stopping {
            return;
        }
        if !self.recorder.make_room(Some(slot)) {
            return self.list(slot);
        }
        let buffer = self.recorder.capture.read_buffer(slot, Direction::Out);
        let most = rest.len().min(buffer.len());
        match stream.write(&[IoSlice::new(&rest[..most])]) {
            Ok(len) => {
                buffer[..len].copy_from_slice(&rest[..len]);
                sending.at += len;
                let now = self.clock.now();
                self.recorder.capture.handle_written(slot, len, now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sending.is_blocked = true;
                return;
            }
            Err(error) => {
                line.broken = Some(broken(&error));
            }
        }
        self.list(slot);
    }
}
