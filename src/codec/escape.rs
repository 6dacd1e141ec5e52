//! Which characters must not reach a terminal as they are.

use wide::u8x16;

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

/// Bytes that one [`u8x16`] holds.
pub(super) const LANES: usize = 16;

/// Bytes in a block of [`special_bits`].
pub(super) const BITS: usize = 64;

/// A bit for each byte of `block`, the first lowest: whether `is_special` sets its highest.
pub(super) fn special_bits(block: &[u8; BITS], is_special: impl Fn(u8x16) -> u8x16) -> u64 {
    let bits = block.chunks_exact(LANES).map(|bytes| {
        let bits = is_special(lanes(bytes)).move_mask();
        u64::from(bits as u32)
    });
    bits.rfold(0, |sum, bits| sum << LANES | bits)
}

/// `bytes`, which are [`LANES`] in number.
pub(super) fn lanes(bytes: &[u8]) -> u8x16 {
    u8x16::new(bytes.try_into().expect("they are as many"))
}

/// Appends `number`, in decimal.
pub(super) fn push_number(out: &mut Vec<u8>, number: u64) {
    const DIGITS_8: u64 = 100_000_000;
    if number >= DIGITS_8 {
        push_number(out, number / DIGITS_8);
        return out.extend_from_slice(&digits_8(number % DIGITS_8).to_le_bytes());
    }
    // How many they are is known without them, so what comes behind them need not wait.
    let len = match number {
        0..=9 => 1,
        10..=99 => 2,
        100..=999 => 3,
        1_000..=9_999 => 4,
        10_000..=99_999 => 5,
        100_000..=999_999 => 6,
        1_000_000..=9_999_999 => 7,
        _ => 8,
    };
    let end = out.len() + len;
    out.extend_from_slice(&(digits_8(number) >> (64 - 8 * len)).to_le_bytes());
    out.truncate(end);
}

const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);

/// The eight digits of a number that has no more, the first in the lowest byte: halved to groups of four, of
/// two and of one, all at once. Digits that are written one by one and then moved are waited for.
fn digits_8(number: u64) -> u64 {
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    // Of what is less than 10,000, a hundredth; of what is less than 100, a tenth.
    let hundredths = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = hundredths | ((fours - hundredths * 100) << 16);
    let tenths = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = tenths | ((twos - tenths * 10) << 8);
    ones | ZEROS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_were_meant() {
        let mut random = fastrand::Rng::with_seed(23);
        let near_powers = (0..20).flat_map(|digits| {
            let power = 10_u64.pow(digits);
            [power - 1, power, power + 1]
        });
        let any = std::iter::repeat_with(|| random.u64(..) >> random.u32(0..64));
        let groups = 0..20_000;
        for number in (near_powers.chain(any.take(100_000)).chain(groups)).chain([u64::MAX]) {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn bits_and_runs_agree_with_a_look_at_each_byte() {
        let is_special = |byte: u8| byte < 0x20 || byte == 0x7f;
        let are_special = |bytes: u8x16| {
            let is_control = bytes.min(u8x16::splat(0x1f)).cmp_eq(bytes);
            is_control | bytes.cmp_eq(u8x16::splat(0x7f))
        };
        let mut random = fastrand::Rng::with_seed(17);
        for _ in 0..20_000 {
            let sparse = random.u8(1..=255);
            let block: [u8; BITS] = std::array::from_fn(|_| match random.u8(0..=255) {
                draw if draw < sparse => b'a',
                draw => draw,
            });
            let bits = special_bits(&block, are_special);
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
