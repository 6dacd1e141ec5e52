//! Making bytes fewer: what is streamed into a file, and whole files after the fact.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::options::Compression;

/// Bytes compressed in one step.
const STEP: usize = 256 * 1024;

/// Bytes whose compressed form fits into flate2's buffer, however little they are compressed.
const GZIP_FLUSHED_WHOLE: usize = 16 * 1024;

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// A compressor that writes to `W`.
enum Encoder<W: Write> {
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Gzip(GzEncoder<W>),
}

impl<W: Write> Encoder<W> {
    fn new(compression: Compression, to: W) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(to, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
            Compression::Gzip => Self::Gzip(GzEncoder::new(to, flate2::Compression::default())),
        })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Zstd(encoder) => encoder,
            Self::Gzip(encoder) => encoder,
        }
    }

    fn get_mut(&mut self) -> &mut W {
        match self {
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

/// Compresses what is appended to a file. What [`Packer::pack`] gives for some bytes is enough to
/// have those bytes back, so a file that ends behind it has lost nothing but its trailer.
pub(super) struct Packer(Encoder<Vec<u8>>);

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    /// # Errors
    /// There is no memory for it.
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        Encoder::new(compression, Vec::new()).map(Self)
    }

    /// Appends to `packed` all that is needed to have `bytes` back.
    pub(super) fn pack(&mut self, bytes: &[u8], packed: &mut Vec<u8>) -> io::Result<()> {
        self.0.writer().write_all(bytes)?;
        self.0.writer().flush()?;
        // flate2 flushes through a buffer of 32 KiB. If that fills, what the compressor still looks
        // ahead at (258 bytes at most) stays in it; flushed again, it comes.
        if bytes.len() > GZIP_FLUSHED_WHOLE && matches!(self.0, Encoder::Gzip(_)) {
            self.0.writer().flush()?;
        }
        packed.append(self.0.get_mut());
        Ok(())
    }

    /// Appends the trailer to `packed`.
    pub(super) fn finish(self, packed: &mut Vec<u8>) -> io::Result<()> {
        packed.append(&mut self.0.finish()?);
        Ok(())
    }
}

/// Compresses all of `from` into `to`, which is not synced. Calls `between` every now and then.
pub(super) fn compress(
    compression: Compression,
    from: &mut File,
    to: &mut File,
    mut between: impl FnMut(),
) -> io::Result<()> {
    let mut encoder = Encoder::new(compression, to)?;
    let mut bytes = vec![0; STEP];
    loop {
        between();
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => encoder.writer().write_all(&bytes[..len])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    encoder.finish().map(drop)
}

/// Whether `packed` holds exactly what `plain` does. Calls `between` every now and then.
pub(super) fn holds_the_same(
    compression: Compression,
    packed: File,
    plain: &mut File,
    mut between: impl FnMut(),
) -> io::Result<bool> {
    let mut unpacked: Box<dyn Read> = match compression {
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(packed)?),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(packed))),
    };
    let (mut one, mut other) = (vec![0; STEP], vec![0; STEP]);
    loop {
        between();
        // A decoder that stumbles has something else in it.
        let Ok(len) = read_full(&mut unpacked, &mut one) else {
            return Ok(false);
        };
        if read_full(plain, &mut other)? != len || one[..len] != other[..len] {
            return Ok(false);
        }
        if len == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or nothing is left.
fn read_full(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match from.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// All that a compressed text holds, up to where it breaks off.
#[cfg(test)]
pub(super) fn unpack(compression: Compression, packed: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Zstd => {
            let mut unpacked = Vec::new();
            let mut decoder = zstd::stream::read::Decoder::new(packed).expect("memory");
            // One by one: what comes before an error is not lost with it.
            let mut piece = [0; 1];
            while let Ok(1) = decoder.read(&mut piece) {
                unpacked.extend_from_slice(&piece);
            }
            unpacked
        }
        Compression::Gzip => {
            // flate2's readers keep back what comes last before a missing end; gzip(1) does not.
            const HEADER: usize = 10;
            let mut unpacked = Vec::new();
            let mut inflate = flate2::Decompress::new(false);
            let sync = flate2::FlushDecompress::Sync;
            let deflated = packed.get(HEADER..).unwrap_or_default();
            loop {
                unpacked.reserve(STEP);
                let (read, len) = (inflate.total_in() as usize, unpacked.len());
                let _ = inflate.decompress_vec(&deflated[read..], &mut unpacked, sync);
                if unpacked.len() == len {
                    return unpacked;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_so_far_can_be_had_back_at_any_time() {
        for compression in Compression::ALL {
            let mut packer = Packer::new(compression).expect("there is memory");
            let mut random = fastrand::Rng::with_seed(3);
            let (mut plain, mut packed) = (Vec::new(), Vec::new());
            for _ in 0..40 {
                let most = random.choice([2, 4, 256]).unwrap_or(2);
                let len = random.choice([100, 3_000, 200_000]).unwrap_or(1);
                let bytes = (0..random.usize(0..len)).map(|_| random.u16(0..most) as u8);
                let bytes: Vec<u8> = bytes.collect();
                packer.pack(&bytes, &mut packed).expect("into memory");
                plain.extend_from_slice(&bytes);
                assert_eq!(unpack(compression, &packed), plain, "{compression:?}");
            }
            packer.finish(&mut packed).expect("into memory");
            assert_eq!(unpack(compression, &packed), plain, "{compression:?}");
            assert!(packed.len() < plain.len() * 4 / 5);
        }
    }
}
