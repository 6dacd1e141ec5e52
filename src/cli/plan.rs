//! What is meant: arguments, validated together, become the engine's configuration. Nothing is opened
//! and nothing changed here but the process's own open-file limit.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::Duration;

use bytesize::ByteSize;

use super::args::{
    AcceptArgs, Cat, Connect, DialArgs, DirArg, Frame, LimitArgs, Listen, OutputArgs, PaceArg,
    Proxy, Replay, RunArgs,
};
use super::captures::{is_same_file, is_stdout, selection, sources};
use super::outputs::{is_seen, output_options, outputs};
use crate::capture::{self, READ_MAX, admission};
use crate::codec::Format;
use crate::codec::ndjson::FRAME_LIMIT;
use crate::engine::address::Address;
use crate::engine::{Config, Pacing, Recording, cat, devices, dial, lead, limits, proxy, replay};
use crate::input::Source;
use crate::output::options::{OnStall, SyncPolicy};
use crate::output::{OutputSpec, PlaceSpec};
use crate::record::batch::ARENA_SIZE;
use crate::record::time::micros;
use crate::record::{Direction, Framing};
use crate::replay::Pace;

/// Arguments that make no sense, alone or together. One sentence, with what to do instead.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn usage<T>(message: impl Into<String>) -> Result<T, UsageError> {
    Err(UsageError(message.into()))
}

/// How long outputs that may miss records are waited for while they stand still.
const STALL: Duration = Duration::from_secs(1);

/// Where peers send in bulk, an arena holds as much as one read may bring: the kernel acknowledges, and wakes
/// the sender, once a read.
const BULK_ARENA: usize = READ_MAX;

/// … where an output's part of the buffer has so many of them; else they are smaller.
const BULK_ARENAS: usize = 16;

/// … and so much, or at least one, is on its way before the next is begun while outputs keep up.
const BULK_LEAD: usize = READ_MAX;

/// Of the buffer, with line framing, this part is for lines whose end has not come.
const CARRY_SHARE: usize = 4;

pub(super) fn listen(args: &Listen) -> Result<Config, UsageError> {
    let outputs = outputs(&args.output.places, Some("text:-"))?;
    for (nth, address) in args.addresses.iter().enumerate() {
        let is_free = matches!(address, Address::AnyInterface(0) | Address::Host(_, 0));
        if !is_free && args.addresses[..nth].contains(address) {
            return usage(format!("{address} is given twice: once is enough"));
        }
        let is_named = matches!(address, Address::Systemd(Some(_)));
        if is_named && args.addresses.contains(&Address::Systemd(None)) {
            return usage(format!(
                "{address} and systemd: the one is all that is handed over; name no other"
            ));
        }
    }
    let of_outputs: usize = outputs.iter().map(OutputSpec::descriptors).sum();
    let room = limits::max_conns(args.addresses.len() + of_outputs);
    let buffer = bytes(args.output.buffer);
    let mut recording = recording(&args.output, outputs, buffer, room)?;
    take_bulk(&mut recording);
    admit(&mut recording, &args.accepting, &args.addresses)?;
    limit(&mut recording, &args.limits, &args.run);
    Ok(Config {
        listen: args.addresses.clone(),
        keepalive: args.limits.keepalive,
        recording,
    })
}

/// Without what the devices are to be sent: that is still to be read.
pub(super) fn connect(args: &Connect) -> Result<devices::Config, UsageError> {
    let outputs = outputs(&args.output.places, Some("text:-"))?;
    let mut targets = Vec::new();
    for address in &args.addresses {
        let target = target(address)?;
        if targets.contains(&target) {
            return usage(format!("{target} is given twice: once is enough"));
        }
        targets.push(target);
    }
    let of_outputs: usize = outputs.iter().map(OutputSpec::descriptors).sum();
    let room = limits::max_conns(of_outputs);
    if targets.len() > room {
        return usage(format!(
            "{} addresses, and the open-file limit leaves room for {room} connections: raise it (ulimit -n)",
            targets.len()
        ));
    }
    let buffer = bytes(args.output.buffer);
    let mut recording = recording(&args.output, outputs, buffer, targets.len())?;
    take_bulk(&mut recording);
    limit(&mut recording, &args.limits, &args.run);
    Ok(devices::Config {
        targets,
        reconnect: (!args.no_reconnect).then_some(args.reconnect),
        message: None,
        dial: dial::Options {
            // It is asked and does not take it: that is as good as silence.
            gives_up_silence: true,
            ..dial_options(&args.dial, &args.limits)
        },
        recording,
    })
}

pub(super) fn proxy(args: &Proxy) -> Result<proxy::Config, UsageError> {
    let outputs = outputs(&args.output.places, Some("text:-"))?;
    let target = target(&args.target)?;
    if args.address == args.target {
        return usage(format!(
            "{target} is both ends of the proxy: it would connect to itself"
        ));
    }
    let of_outputs: usize = outputs.iter().map(OutputSpec::descriptors).sum();
    // A connection has two sockets.
    let room = (limits::max_conns(1 + of_outputs) / 2).max(1);
    let buffer = bytes(args.output.buffer);
    let mut recording = recording(&args.output, outputs, buffer, room)?;
    let listen = std::slice::from_ref(&args.address);
    admit(&mut recording, &args.accepting, listen)?;
    limit(&mut recording, &args.limits, &args.run);
    // The conversation comes first, for it is somebody else's: an output may miss records. But what is
    // only slow is waited for, unless that was asked for in as many words.
    recording.pacing = match args.output.on_stall {
        None => {
            recording.output_options.on_stall = OnStall::Drop;
            Pacing {
                is_for_each: true,
                ..recording.pacing
            }
        }
        Some(_) => Pacing {
            time: Duration::ZERO,
            is_for_each: false,
            ..recording.pacing
        },
    };
    Ok(proxy::Config {
        listen: args.address.clone(),
        target,
        keepalive: args.limits.keepalive,
        dial: dial::Options {
            unsent_max: Some(proxy::UNSENT_MAX),
            ..dial_options(&args.dial, &args.limits)
        },
        recording,
    })
}

/// An address to connect to.
fn target(address: &Address) -> Result<Address, UsageError> {
    match address {
        Address::AnyInterface(0) | Address::Host(_, 0) => usage("port 0 is no port to connect to"),
        Address::Systemd(_) => usage(format!(
            "{address} is a socket to listen on, not one to connect to"
        )),
        // What listens on every interface is reached on this machine.
        Address::AnyInterface(port) => Ok(Address::Host("localhost".to_owned(), *port)),
        other => Ok(other.clone()),
    }
}

fn dial_options(args: &DialArgs, limits: &LimitArgs) -> dial::Options {
    dial::Options {
        timeout: args.connect_timeout,
        keepalive: limits.keepalive,
        gives_up_silence: false,
        unsent_max: None,
    }
}

fn limit(recording: &mut Recording, limits: &LimitArgs, run: &RunArgs) {
    recording.status_every = run.stats;
    let capture = &mut recording.capture;
    capture.idle_timeout = limits.idle_timeout;
    capture.max_age = limits.max_age;
    capture.exit_after = run.exit_after;
    capture.run_for = run.run_for;
}

/// Who may connect, to these addresses.
fn admit(
    recording: &mut Recording,
    args: &AcceptArgs,
    listen: &[Address],
) -> Result<(), UsageError> {
    let by_address = [
        (!args.allow.is_empty(), "--allow"),
        (!args.deny.is_empty(), "--deny"),
        (args.max_conns_per_ip.is_some(), "--max-conns-per-ip"),
    ];
    let is_unix = |address: &Address| matches!(address, Address::Unix(_));
    if let (Some(flag), true) = (first_given(&by_address), listen.iter().all(is_unix)) {
        return usage(format!(
            "{flag}: peers of a Unix socket have no IP address; who may connect is for the permissions of its folder to say"
        ));
    }
    let capture = &mut recording.capture;
    if let Some(most) = args.max_conns {
        capture.max_conns = capture.max_conns.min(most as usize);
    }
    capture.admission = admission::Config {
        allow: args.allow.clone(),
        deny: args.deny.clone(),
        max_conns_per_ip: args.max_conns_per_ip.map(|most| most as usize),
    };
    Ok(())
}

pub(super) fn replay(args: &Replay) -> Result<replay::Config, UsageError> {
    let target = target(&args.target)?;
    let sources = sources(&args.files)?;
    if args.repeat > 1 && sources.contains(&Source::Stdin) {
        return usage("--repeat: standard input can be read once; name a file");
    }
    let selection = selection(&args.selection)?;
    let outputs = outputs(&args.output.places, None)?;
    if args.dry_run && !outputs.is_empty() {
        return usage("--dry-run connects to nobody: there are no answers for an output");
    }
    for spec in &outputs {
        if let PlaceSpec::File(path) = &spec.place {
            if let Some(source) = sources.iter().find(|source| is_same_file(source, path)) {
                return usage(format!(
                    "{} takes the answers and is replayed itself, as {source}: name another file",
                    path.display()
                ));
            }
        }
    }
    if outputs.is_empty() {
        if let Some(flag) = first_for_outputs(&args.output) {
            return usage(format!(
                "{flag} is for the answers, and they go nowhere: name an output with -o"
            ));
        }
    }
    // One half for what is read ahead, the other for what comes back.
    let buffer = bytes(args.output.buffer);
    let (look_ahead, answers) = match outputs.is_empty() {
        true => (buffer, 0),
        false => (buffer / 2, buffer / 2),
    };
    let of_outputs: usize = outputs.iter().map(OutputSpec::descriptors).sum();
    let room = limits::max_conns(sources.len().min(FILES_OPEN) + of_outputs);
    Ok(replay::Config {
        sources,
        target,
        selection,
        direction: direction(args.dir),
        max_gap: args.max_gap,
        times: args.repeat,
        player: crate::replay::Config {
            speed: args.speed,
            pace: match args.pace {
                PaceArg::Time => Pace::Time,
                PaceArg::Reply => Pace::Reply,
            },
            jobs: args.jobs.map(|jobs| jobs as usize),
            room,
            timeout_us: micros(args.timeout),
        },
        look_ahead,
        is_watched: !args.output.quiet && io::stderr().is_terminal() && !is_seen(&outputs),
        recording: recording(&args.output, outputs, answers, usize::MAX)?,
    })
}

pub(super) fn cat(args: &Cat) -> Result<cat::Config, UsageError> {
    let mut sources = sources(&args.files)?;
    let followed = match (args.follow, sources.pop()) {
        (true, Some(Source::File(path))) => Some(path),
        (true, _) => return usage("--follow: the last capture must be a file, which grows"),
        (false, last) => {
            sources.extend(last);
            None
        }
    };
    let direction = args.dir.map(direction);
    let mut outputs = outputs(&args.places, Some("text:-"))?;
    for spec in &mut outputs {
        if let (Format::Raw(kept), Some(meant)) = (&mut spec.format, direction) {
            *kept = meant;
        }
        let followed = followed.clone().map(Source::File);
        let is_read = |source: &Source| match &spec.place {
            PlaceSpec::Stdout => is_stdout(source),
            PlaceSpec::File(path) => is_same_file(source, path),
            PlaceSpec::Template(_) => false,
        };
        if let Some(source) = sources.iter().chain(&followed).find(|at| is_read(at)) {
            return usage(format!(
                "{} is written to and read itself, as {source}: name another file",
                spec.place
            ));
        }
    }
    Ok(cat::Config {
        sources,
        followed,
        selection: selection(&args.selection)?,
        direction,
        outputs,
    })
}

fn direction(arg: DirArg) -> Direction {
    match arg {
        DirArg::In => Direction::In,
        DirArg::Out => Direction::Out,
    }
}

/// Files of a replay that may be open at once: those that are no regular files stay open.
const FILES_OPEN: usize = 16;

/// What was said about outputs that are not there.
fn first_for_outputs(args: &OutputArgs) -> Option<&'static str> {
    let given = [
        (args.frame != Frame::Chunk, "--frame"),
        (args.on_stall.is_some(), "--on-stall"),
        (args.files.sync != SyncPolicy::Seal, "--sync"),
        (args.places.force, "--force"),
    ];
    first_given(&given)
}

fn first_given(flags: &[(bool, &'static str)]) -> Option<&'static str> {
    let given = flags.iter().find(|(is_given, _)| *is_given);
    given.map(|(_, flag)| *flag)
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

fn recording(
    args: &OutputArgs,
    outputs: Vec<OutputSpec>,
    buffer: usize,
    max_conns: usize,
) -> Result<Recording, UsageError> {
    let framing = framing(args)?;
    let carry_limit = match framing {
        Framing::Chunk => 0,
        // However small the buffer, one line of every length it may have can be waited for.
        Framing::Line { max } => (buffer / CARRY_SHARE).max(2 * max),
    };
    let checksums = outputs.iter().any(|output| output.format.tells_checksums());
    Ok(Recording {
        output_options: output_options(&args.files, args.on_stall, &outputs)?,
        outputs,
        capture: capture::Config {
            max_conns,
            drain: args.drain,
            carry_limit,
            checksums,
            ..capture::Config::new(framing)
        },
        buffer: buffer.saturating_sub(carry_limit),
        arena: ARENA_SIZE,
        pacing: Pacing {
            time: STALL,
            is_for_each: false,
            lead: lead::Length::ENDLESS,
        },
        status_every: None,
    })
}

/// What peers send comes in bulk, and what is sent to them, if anything is, can wait for it.
fn take_bulk(recording: &mut Recording) {
    // Each output has a share of it, where it may miss records.
    let share = recording.buffer / recording.outputs.len().max(1);
    recording.arena = (share / BULK_ARENAS).clamp(ARENA_SIZE, BULK_ARENA);
    recording.pacing.lead = lead::Length(BULK_LEAD / recording.arena);
}

fn framing(args: &OutputArgs) -> Result<Framing, UsageError> {
    let max = args.frame_max.as_u64();
    if max == 0 || max > FRAME_LIMIT as u64 {
        return usage(format!(
            "--frame-max {}: a record holds 1 byte to {}",
            args.frame_max,
            bytesize::ByteSize(FRAME_LIMIT as u64),
        ));
    }
    Ok(match args.frame {
        Frame::Chunk => Framing::Chunk,
        Frame::Line => Framing::Line { max: max as usize },
    })
}
