//! wiretape as a user runs it: the real program, real sockets, real files.
//!
//! Every test listens on port 0 and waits for the listening line; none sleeps. Tests that need a
//! program which is not installed say "skipped"; with `WIRETAPE_TEST_ALL=1` they fail instead.

mod admission;
mod bad_input;
mod breaks;
mod capture;
mod cat;
mod connect;
mod conversations;
mod cookbook;
mod crash;
mod crowds;
mod descriptors;
mod faults;
mod faulty;
mod files;
mod hand;
mod hostile;
mod kernel;
mod lifetime;
mod limits;
mod lossy;
mod manual;
mod mdoc;
mod outputs;
mod programs;
mod proxy;
mod replay;
mod review;
mod rotation;
mod shell;
mod shutdown;
mod stalls;
mod systemd;
mod talk;
mod tape;
mod targets;
mod terminal;
