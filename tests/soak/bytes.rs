//! What a client sends, made from its number: any stretch of it can be made again and compared, and
//! nothing has to be kept.
//!
//! Every stream begins with eight bytes that name it, so that whoever receives one without knowing
//! its sender, a server or a file of raw bytes, can tell which it is.

use std::fmt;

use crc32fast::Hasher;
use wiretape::record::Direction;

/// The name at the front of a stream.
pub const NAME_LEN: usize = 8;

/// A stream is made block by block, each from its number alone.
const BLOCK: usize = 4096;

/// A line of about eighty bytes, and in it every kind of character that JSON escapes.
const TEXT: &[u8] =
    b"temp=21.5 hum=40 \"quoted\" back\\slash tab\tcr\r\x07\x1b[2J\x7f 0123456789 ABCDEF\n";

/// Without a newline: lines of it are longer than any frame.
const WORDS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ+/";

/// Valid UTF-8 as long as it is not cut, among it what a terminal would obey or show wrong.
const SIGNS: [&str; 8] = [
    "°", "€", "𝄞", "\u{202e}", "\u{85}", "ß\n", "漢字", "plain\n",
];

/// What the bytes look like.
#[derive(Clone, Copy, Debug)]
enum Look {
    Binary,
    Lines,
    OneLongLine,
    Utf8,
}

/// All bytes that a client sends, or all that it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    seed: u64,
    id: u32,
    direction: Direction,
}

impl Stream {
    /// That of client `id` in the round of `seed`.
    pub fn new(seed: u64, id: u32, direction: Direction) -> Self {
        Self {
            seed,
            id,
            direction,
        }
    }

    /// Whose stream begins with `bytes`, and which of the two it is.
    pub fn named(bytes: &[u8]) -> Option<(u32, Direction)> {
        let name = bytes.get(..NAME_LEN)?;
        let digits = std::str::from_utf8(&name[..NAME_LEN - 1]).ok()?;
        let id = u32::from_str_radix(digits, 16).ok()?;
        let mut directions = [Direction::In, Direction::Out].into_iter();
        let direction = directions.find(|way| Self::new(0, id, *way).name() == name)?;
        Some((id, direction))
    }

    fn name(&self) -> [u8; NAME_LEN] {
        let last = match self.direction {
            Direction::In => '\n',
            Direction::Out => '>',
        };
        let name = format!("{:07x}{last}", self.id);
        name.as_bytes().try_into().expect("ids have seven digits")
    }

    fn key(&self) -> u64 {
        let direction = u64::from(self.direction == Direction::Out);
        let key = self.seed ^ (u64::from(self.id) << 1 | direction) << 24;
        fastrand::Rng::with_seed(key).u64(..)
    }

    fn look(&self) -> Look {
        match self.key() % 4 {
            0 => Look::Binary,
            1 => Look::Lines,
            2 => Look::OneLongLine,
            _ => Look::Utf8,
        }
    }

    /// The block of this number.
    fn block(&self, number: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut random = fastrand::Rng::with_seed(self.key().wrapping_add(number));
        random.fill(&mut block);
        let spell = |block: &mut [u8], alphabet: &[u8]| {
            for byte in block {
                *byte = alphabet[usize::from(*byte) * alphabet.len() / 256];
            }
        };
        match self.look() {
            Look::Binary => {}
            Look::Lines => spell(&mut block, TEXT),
            Look::OneLongLine => spell(&mut block, WORDS),
            Look::Utf8 => {
                let signs = (0..).flat_map(|_| SIGNS[random.usize(..SIGNS.len())].bytes());
                block
                    .iter_mut()
                    .zip(signs)
                    .for_each(|(byte, sign)| *byte = sign);
            }
        }
        if number == 0 {
            block[..NAME_LEN].copy_from_slice(&self.name());
        }
        block
    }

    /// Those from its beginning on, to be compared as they come.
    pub fn follow(self) -> Follower {
        Follower {
            stream: self,
            at: 0,
            block: None,
        }
    }

    /// The bytes from `offset` on, in pieces, up to `end`.
    fn pieces(&self, offset: u64, end: u64, mut each: impl FnMut(&[u8])) {
        let mut at = offset;
        while at < end {
            let (number, from) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let len = (BLOCK - from).min((end - at) as usize);
            each(&self.block(number)[from..from + len]);
            at += len as u64;
        }
    }

    /// Makes `len` bytes from `offset` on.
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        let end = offset + len as u64;
        self.pieces(offset, end, |piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// CRC-32 of its first `len` bytes.
    pub fn crc32(&self, len: u64) -> u32 {
        let mut hasher = Hasher::new();
        self.pieces(0, len, |piece| hasher.update(piece));
        hasher.finalize()
    }
}

/// Compares what comes with what was sent.
#[derive(Clone)]
pub struct Follower {
    stream: Stream,
    at: u64,
    /// The block compared with last: of many short records each needs the same.
    block: Option<(u64, Box<[u8; BLOCK]>)>,
}

impl Follower {
    /// What comes.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// How much has come.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Passes over what is missing before `offset`.
    pub fn skip_to(&mut self, offset: u64) {
        self.at = offset;
    }

    /// Demands that these are the next bytes.
    pub fn follow(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, from) = (self.at / BLOCK as u64, (self.at % BLOCK as u64) as usize);
            let (these, behind) = rest.split_at(rest.len().min(BLOCK - from));
            let (stream, at) = (self.stream, self.at);
            if self.block.as_ref().is_none_or(|(held, _)| *held != number) {
                self.block = Some((number, Box::new(stream.block(number))));
            }
            let block = self.block.as_ref().map(|(_, block)| &block[from..]);
            let is_right = block.is_some_and(|block| block.starts_with(these));
            assert!(
                is_right,
                "other bytes than were sent: {stream:?} from {at} on"
            );
            self.at += these.len() as u64;
            rest = behind;
        }
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} up to {}", self.stream, self.at)
    }
}
