//! How outputs are to behave: what the flags mean, validated, the same for all of them.

use std::time::Duration;

/// What holds for every output of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// When a file is closed and the next begun.
    pub rotation: Rotation,
    /// How many closed segments are kept.
    pub retention: Retention,
    /// How closed segments are compressed, if they are.
    pub compression: Option<Compression>,
    /// A shell command that is run for every finished segment, its path behind it.
    pub on_rotate: Option<String>,
    /// How soon what was written is forced to the disk.
    pub sync: SyncPolicy,
    /// What an output does that cannot keep up.
    pub on_stall: OnStall,
}

/// When a segment ends; both can be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes that a segment holds at most, unless one record alone is longer.
    pub size: Option<u64>,
    /// How long a segment takes records, counted from its first.
    pub every: Option<Duration>,
}

impl Rotation {
    /// Whether segments end by themselves.
    pub fn is_wanted(&self) -> bool {
        self.size.is_some() || self.every.is_some()
    }
}

/// Which closed segments stay: the newest, as long as both limits hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// How many at most.
    pub segments: Option<u64>,
    /// How many bytes at most, together.
    pub bytes: Option<u64>,
}

impl Retention {
    /// Whether anything is ever deleted.
    pub fn is_wanted(&self) -> bool {
        self.segments.is_some() || self.bytes.is_some()
    }

    /// How many of these segments (their sizes in bytes, the oldest first) are too many.
    pub fn surplus(
        &self,
        sizes: impl DoubleEndedIterator<Item = u64> + ExactSizeIterator,
    ) -> usize {
        let all = sizes.len();
        let (mut kept, mut bytes) = (0, 0_u64);
        for size in sizes.rev() {
            bytes = bytes.saturating_add(size);
            let is_one_too_many = self.segments.is_some_and(|most| kept >= most);
            if is_one_too_many || self.bytes.is_some_and(|most| bytes > most) {
                break;
            }
            kept += 1;
        }
        all - kept as usize
    }
}

/// How bytes are made fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Zstd, Self::Gzip];

    /// How the names of files end that are compressed so, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Gzip => "gz",
        }
    }

    /// What a file name's extension says, in capitals or not.
    pub fn of_extension(extension: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.extension().eq_ignore_ascii_case(extension))
    }
}

/// When written bytes are forced to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// When a file is closed: at a rotation, a reopening, the end.
    #[default]
    Seal,
    /// Also at most this long after they were written.
    Every(Duration),
    /// Also after every write, before anything else is written.
    Always,
}

/// What becomes of records that an output does not take in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStall {
    /// They wait, and when the buffer is full the senders wait too; but a terminal beside other
    /// outputs misses them.
    #[default]
    Auto,
    /// They wait, in every output.
    Block,
    /// The output misses them, and they are counted.
    Drop,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(segments: Option<u64>, bytes: Option<u64>, sizes: &[u64], expected: usize) {
        let retention = Retention { segments, bytes };
        assert_eq!(
            retention.surplus(sizes.iter().copied()),
            expected,
            "{retention:?} {sizes:?}"
        );
    }

    #[test]
    fn the_newest_are_kept_while_both_limits_hold() {
        check(None, None, &[5, 5, 5], 0);
        check(Some(2), None, &[], 0);
        check(Some(2), None, &[5, 5], 0);
        check(Some(2), None, &[5, 5, 5], 1);
        check(None, Some(10), &[5, 5, 5], 1);
        check(None, Some(9), &[5, 5, 5], 2);
        check(None, Some(4), &[5, 5, 5], 3);
        // A large old one goes, even if older ones would fit again: what is kept has no hole.
        check(None, Some(10), &[1, 9, 3], 2);
        check(Some(1), Some(100), &[1, 9, 3], 2);
        check(Some(9), Some(3), &[1, 9, 3], 2);
        check(None, Some(u64::MAX), &[u64::MAX, u64::MAX], 0);
    }
}
