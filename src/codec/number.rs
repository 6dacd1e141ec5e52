//! Numbers in decimal, eight digits or four at once.

/// Appends `number`, in decimal.
#[inline]
pub(super) fn push_number(out: &mut Vec<u8>, number: u64) {
    if number < 10_000 {
        let number = number as u32;
        let len =
            1 + usize::from(number > 9) + usize::from(number > 99) + usize::from(number > 999);
        let digits = u32::from_le_bytes(digits_4(number)) >> (32 - 8 * len);
        // How many they are is known without them, so what comes behind them need not wait.
        let end = out.len() + len;
        out.extend_from_slice(&digits.to_le_bytes());
        out.truncate(end);
    } else {
        push_long(out, number);
    }
}

/// … which has five digits or more.
fn push_long(out: &mut Vec<u8>, number: u64) {
    const DIGITS_8: u64 = 100_000_000;
    if number >= DIGITS_8 {
        push_number(out, number / DIGITS_8);
        return out.extend_from_slice(&digits_8(number % DIGITS_8).to_le_bytes());
    }
    let len = match number {
        0..=99_999 => 5,
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
    digits_of_fours((number / 10_000) | ((number % 10_000) << 32))
}

/// … of which there are already groups of four.
#[inline(always)]
fn digits_of_fours(fours: u64) -> u64 {
    // Of what is less than 10,000, a hundredth; of what is less than 100, a tenth.
    let hundredths = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = hundredths | ((fours - hundredths * 100) << 16);
    let tenths = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = tenths | ((twos - tenths * 10) << 8);
    ones | ZEROS
}

/// The four digits each of the number in the lower half and of the one in the upper, which have no more.
#[inline(always)]
pub(super) fn digits_4_and_4(fours: u64) -> [[u8; 4]; 2] {
    let digits = digits_of_fours(fours);
    [digits as u32, (digits >> 32) as u32].map(u32::to_le_bytes)
}

/// The four digits of a number that has no more, the same way.
pub(super) fn digits_4(number: u32) -> [u8; 4] {
    let hundredths = (number * 10_486) >> 20;
    let twos = hundredths | ((number - hundredths * 100) << 16);
    let tenths = ((twos * 103) >> 10) & 0x000f_000f;
    let ones = tenths | ((twos - tenths * 10) << 8);
    (ones | ZEROS as u32).to_le_bytes()
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
}
