//! wiretape captures what arrives on a TCP port: every byte, with its time, its connection and its
//! peer, to standard output, files and NDJSON. It listens, dials devices that listen, or sits between
//! clients and a server; and it sends captured sessions again, to another server.
//!
//! This is the map of the program. The library exists for its binary and its tests; no promise is
//! made about its interface. What is promised is the command line (`man wiretape`) and the capture
//! format (`man 5 wiretape-capture`).
//!
//! # The way data flows
//!
//! ```text
//! capture: socket → engine reads into a Batch → capture core writes the record heads → router
//!                 → queue of each output → its worker: encoder → file, standard output
//!                 (what little goes to a pipe that is idle, the loop's thread writes itself)
//! proxy:   the same, and from the Batch the bytes are written on at once: socket → Batch → other socket
//! replay:  file, standard input → decoder → sessions → steps in Blocks → player → engine → socket
//!                 (and what comes back goes the way of a capture)
//! cat:     file, standard input → decoder → encoder → file, standard output, on one thread
//! check, sessions: the same to the decoder → review → what is said of it
//! ```
//!
//! # Vocabulary
//!
//! | word | meaning |
//! | --- | --- |
//! | *capture* | what is recorded of a run; also the file that holds it |
//! | *run* | one life of the program, from its `start` record to its `end` |
//! | *connection* | one TCP or Unix stream connection; [`record::ConnId`] names it within its run |
//! | *peer*, *local* | the other end of a connection, and this end |
//! | *target* | the server that is dialled: by a proxy for each peer, by a replay for each session |
//! | *device* | a peer that was dialled because it does not dial itself |
//! | *chunk* | bytes of a connection that are recorded at once, mostly those of one read, cut into records by the framing: [`record::chunk::Chunk`] |
//! | *record* | one stored event: [`record::Record`] |
//! | *frame*, *framing* | how a connection's bytes become `data` records: [`record::Framing`] |
//! | *carry* | the beginning of a line whose end has not come |
//! | *batch* | an arena of payload bytes, and the heads of records: [`record::batch::Batch`] |
//! | *output* | a format and a place, with a thread and a queue: [`output::Output`] |
//! | *segment* | one of the files that an output's run is spread over; *live* while it is written |
//! | *sink* | a file being written, and what is encoded for it: `output/sink.rs` |
//! | *gap* | records that an output missed, counted |
//! | *lead* | how far the sockets run ahead of outputs that keep up: `engine/lead.rs` |
//! | *errand* | a small batch for an idle pipe, written by the loop's thread: [`output::Errand`] |
//! | *deputy* | the thread that takes the loop over while an errand takes its time: `engine/helm.rs` |
//! | *share* | what an output that may miss records holds of the buffer at most |
//! | *session* | a recorded connection that is played; *origin*, where it comes from |
//! | *step* | something that a session does, at its *position* in what is played |
//! | *block* | a stretch of steps, and the bytes they send: [`replay::Block`] |
//! | *replies* | what came back in the recording; *answers*, what comes back now |
//! | *finding* | something in a capture that does not agree with the rest: [`review::Finding`] |
//! | *relay* | what passes between a peer and its target; *held*, what one side has sent and the other not taken |
//! | *deafen* | to have the kernel take nothing more from a peer: it acknowledges no more data |
//! | *refuse* | to reset a peer that may not connect, before anything is read of it |
//! | *retire* | to deafen a peer, read what the kernel has taken, and close |
//! | *drain* | retiring every connection, those in the accept queue included, when the run is to end |
//! | *notice* | something to be said to a person: [`notice::Notice`] |
//!
//! # Rooms, and who may know whom
//!
//! | room | owns | must not know |
//! | --- | --- | --- |
//! | [`record`] | what is recorded; batches and the one memory bound | I/O, clocks |
//! | [`codec`] | record ↔ bytes; alone knows `serde_json` | files, sockets, clocks |
//! | [`capture`] | who may connect, connections, numbers, checksums, framing, deadlines, the end of a run | I/O, clocks: time is a parameter |
//! | [`dial`] | which address is tried when, and when again | I/O, clocks: time is a parameter |
//! | [`relay`] | what passes between a peer and a target, and how either's end is passed on | I/O, clocks |
//! | [`replay`] | sessions, their steps, what is done next and when | I/O, clocks: time is a parameter |
//! | [`review`] | what a capture holds, and whether it is whole | I/O, clocks |
//! | [`notice`] | what there is to say to a person | how it is said |
//! | [`input`] | captures that are read: files, standard input, decompression | what is done with the records |
//! | [`output`] | files and threads; writing, rotating, failing, keeping house | sockets, `capture`; the clock it is handed is not its own |
//! | [`engine`] | the loop, sockets, signals, the clocks, what systemd hands over | how anything is encoded |
//! | [`cli`] | what was typed, what it means, what is said | — |
//!
//! Imports go one way: `record ← codec`, `record ← capture`, `record ← relay`, `record ← replay`, `record ← review`,
//! `record, capture, replay ← notice`, `codec, notice, record ← input` and `← output`, all of these `← engine`,
//! everything `← cli`. A test (`tests/tidy`) reads the `use` lines and fails on a breach.
//!
//! # Invariants worth knowing before a change
//!
//! * **The buffer is the backpressure.** All payload bytes between a socket and an output lie in
//!   batches of one [`record::batch::BatchPool`]. Where it has none to give, nothing is read, accepted
//!   or closed, and TCP holds the senders.
//! * **A batch leaves when it is full or an output is idle**, so that a lone byte is out at once and
//!   a flood is written in large pieces; while there is always something to read, it waits a moment for
//!   company. A small batch moves into memory of its own size first.
//! * **What is on its way is little**, and soon used again: while all outputs keep up, peers wait for them long before
//!   the buffer is full ([`engine::lead`]); the buffer is for outputs that are slow, or stall. A proxy and a
//!   replay, whose peers wait for each other, use it from the beginning.
//! * **Readiness is latched.** The kernel tells once (edge-triggered); the loop's lists remember
//!   until a read or an accept has found nothing more. A turn that ends early, for want of room, is gone on
//!   with in the next.
//! * **The loop sleeps only after a second look** ([`record::doorbell`]): a worker makes room first
//!   and rings afterwards, the loop arms the bell first and looks afterwards. Where no output can bring
//!   what it waits for, the bell stays unarmed, and the writing of a lone chunk wakes nobody.
//! * **The loop waits for no write**, or no longer than some milliseconds. Where its own thread writes, because
//!   waking another takes longer, it has left the loop to a deputy (`engine/helm.rs`); and who works for an output
//!   has its workbench (`output/worker.rs`).
//! * **A record is in one file, whole, once.** A sink knows where records end in what it has not
//!   written, by its marks or, between two, by the ends of lines, so that what a file did not take, for
//!   whatever reason, goes to the next one; a part of a record is cut off (`output/live.rs`; the simulation
//!   beside it lets every call fail).
//! * **Numbers follow from places.** A batch knows the number of its first record and how many it
//!   holds; framing is a rule on bytes ([`record::framing`]) that the capture core counts by and
//!   the encoders split by. So records that are made at once need no place of their own, and are encoded
//!   and written together ([`record::chunk`]).
//! * **Steps stand in the order of their times**, so the player walks along them, and a session's queue
//!   holds only what is due. The memory of a replay is its blocks, as that of a capture is its batches.
//! * **What counts as played was taken**: a session ends its sending only once the kernel has everything
//!   on its way, and is done when both sides have ended and the last acknowledgement has come
//!   (`engine/stream.rs`), or the target stays silent behind that.
//! * **What was acknowledged is recorded.** Who is to be closed is deafened first: a filter that drops
//!   every packet with data makes what a peer has had acknowledged a finite thing; it is read to its end,
//!   and the FIN behind it tells the peer how much that was (`engine/stream.rs`).
//! * **A proxy is no wider than TCP.** A side is read only while the other takes what comes, so that each
//!   holds up the other as if nobody sat between; beyond one read a direction, and a bound over all,
//!   nothing is held: it is left in the kernel (`relay`, `engine/proxy.rs`).

#![forbid(unsafe_code)]

pub mod capture;
pub mod cli;
pub mod codec;
pub mod dial;
pub mod engine;
pub mod input;
pub mod notice;
pub mod output;
pub mod record;
pub mod relay;
pub mod replay;
pub mod review;
