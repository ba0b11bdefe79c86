//! CRC-32 as zip and PNG have it (polynomial 0x04C11DB7, reflected), and the checksums of rows.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte: u32 = 0;
    while byte < 256 {
        let mut rest = byte;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 {
                (rest >> 1) ^ 0xEDB8_8320
            } else {
                rest >> 1
            };
            bit += 1;
        }
        table[byte as usize] = rest;
        byte += 1;
    }
    table
}

/// A checksum in the making.
struct Crc(u32);

// === impl Crc ===

impl Crc {
    const fn new() -> Self {
        Self(u32::MAX)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let at = self.0.to_le_bytes()[0] ^ byte;
            self.0 = TABLE[usize::from(at)] ^ (self.0 >> 8);
        }
    }

    fn end(self) -> i64 {
        i64::from(!self.0)
    }
}

/// The checksum of a row of whole numbers: eight bytes each, the lowest first.
pub(super) fn of_numbers(numbers: &[i64]) -> i64 {
    of_row(numbers, &[])
}

/// The checksum of a row of whole numbers and then bytes, each run of bytes after its length
/// (eight bytes).
pub(super) fn of_row(numbers: &[i64], runs: &[&[u8]]) -> i64 {
    let mut crc = Crc::new();
    for number in numbers {
        crc.add(&number.to_le_bytes());
    }
    for run in runs {
        let length = u64::try_from(run.len()).unwrap_or(u64::MAX);
        crc.add(&length.to_le_bytes());
        crc.add(run);
    }
    crc.end()
}

#[cfg(test)]
mod tests {
    use super::Crc;

    #[test]
    fn the_check_value_of_the_standard_comes_out() {
        let mut crc = Crc::new();
        crc.add(b"123456789");
        assert_eq!(crc.end(), 0xCBF4_3926);
    }
}
