//! What is in a file, whether it is compressed or not: told by its first bytes, not by its name.

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use flate2::{Decompress, FlushDecompress, Status};

/// Bytes read at once.
const STEP: usize = 256 * 1024;

/// RFC 1952, section 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// RFC 8878, section 3.1.1: 0xFD2FB528, little-endian.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Plain bytes of a file.
pub struct Body {
    reader: BufReader<Box<dyn Read + Send>>,
    is_cut: Arc<AtomicBool>,
}

impl Body {
    /// Looks at the first bytes of `file`.
    ///
    /// # Errors
    /// The first bytes cannot be read, or there is no memory to decompress with.
    pub fn new(mut file: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut magic = Vec::new();
        (&mut file)
            .take(ZSTD_MAGIC.len() as u64)
            .read_to_end(&mut magic)?;
        let is_gzip = magic.starts_with(&GZIP_MAGIC);
        let is_zstd = magic == ZSTD_MAGIC;
        let file = Cursor::new(magic).chain(file);
        let is_cut = Arc::new(AtomicBool::new(false));
        let until_cut = |reader: Box<dyn Read + Send>| -> Box<dyn Read + Send> {
            let is_cut = Arc::clone(&is_cut);
            Box::new(UntilCut { reader, is_cut })
        };
        let plain: Box<dyn Read + Send> = if is_gzip {
            until_cut(Box::new(Gunzip::new(BufReader::with_capacity(STEP, file))))
        } else if is_zstd {
            let file = BufReader::with_capacity(STEP, file);
            until_cut(Box::new(zstd::stream::read::Decoder::with_buffer(file)?))
        } else {
            Box::new(file)
        };
        Ok(Self {
            reader: BufReader::with_capacity(STEP, plain),
            is_cut,
        })
    }

    /// Whether the compressed stream broke off before its end. All that it gave until then is good.
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }

    /// What has been read and not been taken yet.
    pub fn buffered(&self) -> &[u8] {
        self.reader.buffer()
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, len: usize) {
        self.reader.consume(len);
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

/// Ends where a compressed stream breaks off, and remembers it.
struct UntilCut<R> {
    reader: R,
    is_cut: Arc<AtomicBool>,
}

impl<R: Read> Read for UntilCut<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.is_cut.store(true, Relaxed);
                Ok(0)
            }
            result => result,
        }
    }
}

/// Reads gzip: any number of members, one behind the other, as appending makes them. flate2's own
/// reader takes the last bytes before a missing trailer with it, and just those are wanted of a
/// capture that a crash cut short.
struct Gunzip<R> {
    input: R,
    inflate: Decompress,
    crc32: crc32fast::Hasher,
    len: u32,
    at: Place,
}

/// What stands next in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header,
    Body,
    Trailer,
}

impl<R: BufRead> Gunzip<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            inflate: Decompress::new(false),
            crc32: crc32fast::Hasher::new(),
            len: 0,
            at: Place::Header,
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn skip(&mut self, len: usize) -> io::Result<()> {
        (0..len).try_for_each(|_| self.byte().map(drop))
    }

    fn skip_string(&mut self) -> io::Result<()> {
        while self.byte()? != 0 {}
        Ok(())
    }

    /// Passes over a member's header; `false` at the end of the input.
    fn header(&mut self) -> io::Result<bool> {
        const CRC: u8 = 1 << 1;
        const EXTRA: u8 = 1 << 2;
        const NAME: u8 = 1 << 3;
        const COMMENT: u8 = 1 << 4;
        const DEFLATE: u8 = 8;
        // Zeros behind a member are padding.
        loop {
            match self.input.fill_buf()?.first() {
                None => return Ok(false),
                Some(0) => self.input.consume(1),
                Some(_) => break,
            }
        }
        let magic = [self.byte()?, self.byte()?];
        if magic != GZIP_MAGIC || self.byte()? != DEFLATE {
            return Err(invalid("not gzip behind the end of a gzip stream"));
        }
        let flags = self.byte()?;
        self.skip(6)?;
        if flags & EXTRA != 0 {
            let len = u16::from_le_bytes([self.byte()?, self.byte()?]);
            self.skip(len.into())?;
        }
        for flag in [NAME, COMMENT] {
            if flags & flag != 0 {
                self.skip_string()?;
            }
        }
        if flags & CRC != 0 {
            self.skip(2)?;
        }
        Ok(true)
    }

    /// Inflates into `buffer`; nothing at the end of the member.
    fn body(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.input.fill_buf()?;
            let is_over = input.is_empty();
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = (self.inflate)
                .decompress(input, buffer, FlushDecompress::None)
                .map_err(|_| invalid("corrupt gzip data"))?;
            let read = (self.inflate.total_in() - read) as usize;
            let written = (self.inflate.total_out() - written) as usize;
            self.input.consume(read);
            self.crc32.update(&buffer[..written]);
            self.len = self.len.wrapping_add(written as u32);
            if status == Status::StreamEnd {
                self.at = Place::Trailer;
            }
            if written > 0 || self.at == Place::Trailer {
                return Ok(written);
            }
            if is_over {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn trailer(&mut self) -> io::Result<()> {
        let mut trailer = [[0; 4]; 2];
        self.input.read_exact(trailer.as_flattened_mut())?;
        let [crc32, len] = trailer.map(u32::from_le_bytes);
        let found = std::mem::take(&mut self.crc32).finalize();
        if (crc32, len) != (found, std::mem::take(&mut self.len)) {
            return Err(invalid("gzip data does not have its checksum"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.at {
                Place::Header => {
                    if !self.header()? {
                        return Ok(0);
                    }
                    self.inflate.reset(false);
                    self.at = Place::Body;
                }
                Place::Body => {
                    let len = self.body(buffer)?;
                    if len > 0 {
                        return Ok(len);
                    }
                }
                Place::Trailer => {
                    self.trailer()?;
                    self.at = Place::Header;
                }
            }
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::GzBuilder::new()
            .filename("a name")
            .comment("a comment")
            .extra("more")
            .write(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("memory");
        encoder.flush().expect("memory");
        encoder.finish().expect("memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("memory");
        encoder.write_all(bytes).expect("memory");
        encoder.flush().expect("memory");
        encoder.finish().expect("memory")
    }

    fn read(file: &[u8]) -> (Vec<u8>, io::Result<bool>) {
        let mut bytes = Vec::new();
        let file: Box<dyn Read + Send> = Box::new(Cursor::new(file.to_vec()));
        let mut body = Body::new(file).expect("memory");
        let result = body.read_to_end(&mut bytes);
        (bytes, result.map(|_| body.is_cut()))
    }

    fn check(file: &[u8], expected: &[u8], expected_cut: bool) {
        let (bytes, result) = read(file);
        assert!(bytes == expected, "{file:?}");
        assert_eq!(result.expect("it can be read"), expected_cut, "{file:?}");
    }

    #[test]
    fn compressed_or_not_is_told_by_content() {
        for plain in [
            &b""[..],
            b"{",
            b"abc",
            &[0x1f],
            &[0x28, 0xb5, 0x2f],
            &[7; 300_000],
        ] {
            check(plain, plain, false);
            check(&gzip(plain), plain, false);
            check(&zstd(plain), plain, false);
        }
        let joined: fn(&[u8], &[u8]) -> Vec<u8> = |one, other| [one, other].concat();
        check(&joined(&gzip(b"one"), &gzip(b"two")), b"onetwo", false);
        check(&joined(&zstd(b"one"), &zstd(b"two")), b"onetwo", false);
        check(&joined(&gzip(b"one"), &[0; 512]), b"one", false);
    }

    #[test]
    fn a_stream_that_breaks_off_has_lost_nothing_but_its_end() {
        let mut random = fastrand::Rng::with_seed(3);
        for len in [1, 100, 40_000] {
            let plain: Vec<u8> = (0..len).map(|_| random.u8(b'a'..b'f')).collect();
            // Flushed behind the last byte: only the end of the stream and the trailer are behind it.
            for (packed, end) in [(gzip(&plain), 8 + 2), (zstd(&plain), 3)] {
                for cut in 5..packed.len() {
                    let (bytes, result) = read(&packed[..cut]);
                    assert!(plain.starts_with(&bytes));
                    assert!(result.expect("it can be read"), "{cut} of {}", packed.len());
                    if cut >= packed.len() - end {
                        assert_eq!(bytes.len(), plain.len(), "{cut} of {}", packed.len());
                    }
                }
            }
        }
    }

    #[test]
    fn damage_is_an_error() {
        let mut packed = gzip(b"hello");
        let checksum = packed.len() - 5;
        packed[checksum] ^= 1;
        let (bytes, result) = read(&packed);
        assert_eq!(bytes, b"hello");
        let error = result.expect_err("the checksum differs");
        assert_eq!(error.to_string(), "gzip data does not have its checksum");
        let (_, result) = read(&[gzip(b"one"), b"more".to_vec()].concat());
        assert!(result.is_err());
    }
}
