//! What the kernel allows: loops that accept and read and do nothing else, or only write on what they read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// The first argument by which this program knows that it is to be the bare loop.
pub const COMMAND: &str = "bare-loop";

/// Its buffer: as large as the best that socat was found to have.
const BUFFER: usize = 1 << 20;

const LISTENER: Token = Token(usize::MAX);

/// Reads until the process is ended: to nowhere (`drop`), or to this file or `-`, of which the second
/// argument says how many bytes are written for 100 that are read.
pub fn run(mut args: impl Iterator<Item = String>) -> ExitCode {
    let output: Box<dyn Write> = match args.next().as_deref() {
        None | Some("drop") => Box::new(io::sink()),
        Some("-") => Box::new(io::stdout()),
        Some(path) => match File::create(path) {
            Ok(file) => Box::new(file),
            Err(_) => return ExitCode::FAILURE,
        },
    };
    let percent = args.next().and_then(|percent| percent.parse().ok());
    match serve(output, percent.unwrap_or(100)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[expect(
    clippy::print_stderr,
    reason = "where it listens is said as wiretape says it"
)]
fn serve(mut output: Box<dyn Write>, percent: usize) -> io::Result<()> {
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address"))?;
    let mut poll = Poll::new()?;
    (poll.registry()).register(&mut listener, LISTENER, Interest::READABLE)?;
    eprintln!("listening on {}", listener.local_addr()?);
    let mut events = Events::with_capacity(1024);
    let mut conns: HashMap<usize, TcpStream> = HashMap::new();
    let mut next = 0;
    let mut buffer = vec![0; BUFFER];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    (poll.registry()).register(&mut stream, Token(next), Interest::READABLE)?;
                    conns.insert(next, stream);
                    next += 1;
                }
                continue;
            }
            let Token(conn) = event.token();
            let Some(stream) = conns.get_mut(&conn) else {
                continue;
            };
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => {
                        conns.remove(&conn);
                        break;
                    }
                    Ok(len) => {
                        let mut owed = len * percent / 100;
                        while owed > 0 {
                            let piece = owed.min(buffer.len());
                            output.write_all(&buffer[..piece])?;
                            owed -= piece;
                        }
                        output.flush()?;
                        if len < buffer.len() && !event.is_read_closed() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        conns.remove(&conn);
                        break;
                    }
                }
            }
        }
    }
}
