//! What is encoded and not yet written: bytes at whose end there can be room to write in, so that what is
//! written in many small pieces need not ask for each of them whether it fits.

use std::ops::Deref;

/// Room that is made at once, unless more is needed.
const MOST: usize = 4096;

/// Bytes, and room behind them.
#[derive(Debug, Default)]
pub struct Buffer {
    /// Both.
    bytes: Vec<u8>,
    /// How many of them are room.
    room: usize,
    /// Room to make the next time.
    step: usize,
}

impl Buffer {
    /// The bytes, to append to.
    pub fn vec(&mut self) -> &mut Vec<u8> {
        self.bytes.truncate(self.len());
        self.room = 0;
        self.step = 0;
        &mut self.bytes
    }

    /// At least so many bytes behind the others, with anything in them.
    pub fn room(&mut self, least: usize) -> &mut [u8] {
        if self.room < least {
            // Where it is lost again soon, not much was made for nothing.
            self.step = least.max(2 * self.step).min(least.max(MOST));
            let len = self.len();
            self.bytes.resize(len + self.step, 0);
            self.room = self.step;
        }
        let len = self.len();
        &mut self.bytes[len..]
    }

    /// The first `len` bytes of [`Buffer::room`] are written.
    pub fn advance(&mut self, len: usize) {
        debug_assert!(len <= self.room);
        self.room -= len;
    }

    /// Takes everything out. The memory stays.
    pub fn clear(&mut self) {
        self.room = self.bytes.len();
    }

    /// Gives memory back beyond so many bytes.
    pub fn shrink_to(&mut self, most: usize) {
        if self.bytes.capacity() > most {
            self.vec().shrink_to(most);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - self.room]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_its_room_stands_behind_the_rest() {
        let mut buffer = Buffer::default();
        let mut expected = Vec::new();
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let bytes = vec![random.u8(..); random.usize(0..300)];
            match random.u8(0..40) {
                0 => {
                    buffer.clear();
                    expected.clear();
                }
                1 => {
                    buffer.shrink_to(random.usize(0..2_000));
                }
                2..10 => {
                    buffer.vec().extend_from_slice(&bytes);
                    expected.extend_from_slice(&bytes);
                }
                _ => {
                    let least = bytes.len() + random.usize(0..5_000);
                    let room = buffer.room(least);
                    assert!(room.len() >= least);
                    room[..bytes.len()].copy_from_slice(&bytes);
                    buffer.advance(bytes.len());
                    expected.extend_from_slice(&bytes);
                }
            }
            assert_eq!(*buffer, *expected);
        }
    }
}
