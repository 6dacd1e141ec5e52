//! Which characters must not reach a terminal as they are.

/// Whether `c`, beyond ASCII, could steer a terminal or deceive its reader: C1 controls, characters
/// that turn the writing direction or cannot be seen (format controls, Cf in the Unicode Character
/// Database), and the two separators that some programs take for the end of a line.
pub(super) fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}'        // C1: U+009B is CSI, U+009D is OSC
        | '\u{ad}'                 // soft hyphen
        | '\u{61c}'                // Arabic letter mark
        | '\u{180e}'               // Mongolian vowel separator
        | '\u{200b}'..='\u{200f}'  // zero width, left-to-right and right-to-left marks
        | '\u{2028}'..='\u{202e}'  // line and paragraph separator, embeddings and overrides
        | '\u{2060}'..='\u{206f}'  // word joiner, invisible operators, isolates
        | '\u{feff}'               // byte order mark
        | '\u{fff9}'..='\u{fffb}'  // interlinear annotation
        | '\u{e0000}'..='\u{e0fff}' // tags and selectors, used to smuggle text
    )
}

/// How many bytes at the front of `bytes` are not special. Looks at blocks first, in a form that
/// compiles to vector instructions.
pub(super) fn plain_run(bytes: &[u8], is_special: impl Fn(u8) -> bool) -> usize {
    const BLOCK: usize = 32;
    let mut at = 0;
    for block in bytes.chunks_exact(BLOCK) {
        let any = block
            .iter()
            .fold(0, |any, &byte| any | u8::from(is_special(byte)));
        if any != 0 {
            break;
        }
        at += BLOCK;
    }
    let rest = &bytes[at..];
    let found = rest.iter().position(|&byte| is_special(byte));
    at + found.unwrap_or(rest.len())
}

/// Bytes in a block of [`special_bits`].
pub(super) const BITS: usize = 64;

/// A bit for each byte of `block`, the first lowest: whether it is special. The comparison compiles
/// to vector instructions; each eight of its results, 0 or 1, are gathered by a multiplication that
/// moves byte `n`'s lowest bit to bit `56 + n`.
pub(super) fn special_bits(block: &[u8; BITS], is_special: impl Fn(u8) -> bool) -> u64 {
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let flags = block.map(|byte| u8::from(is_special(byte)));
    let mut bits = 0;
    for (nth, flags) in flags.chunks_exact(8).enumerate() {
        let flags = u64::from_le_bytes(flags.try_into().expect("it has eight bytes"));
        bits |= (flags.wrapping_mul(GATHER) >> 56) << (nth * 8);
    }
    bits
}

/// Appends `number`, in decimal.
pub(super) fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_runs_agree_with_a_look_at_each_byte() {
        let is_special = |byte: u8| byte < 0x20 || byte == 0x7f;
        let mut random = fastrand::Rng::with_seed(17);
        for _ in 0..20_000 {
            let sparse = random.u8(1..=255);
            let block: [u8; BITS] = std::array::from_fn(|_| match random.u8(0..=255) {
                draw if draw < sparse => b'a',
                draw => draw,
            });
            let bits = special_bits(&block, is_special);
            for (nth, &byte) in block.iter().enumerate() {
                assert_eq!(bits >> nth & 1 == 1, is_special(byte));
            }
            assert_eq!(
                plain_run(&block, is_special),
                bits.trailing_zeros() as usize
            );
        }
    }
}
