//! Internet checksums (RFC 1071).
//!
//! A [`Sum`] adds 16-bit words in the machine's own byte order; the ones' complement sum does not depend on it, and
//! wide loads without byte swaps are what make it fast (RFC 1071 §2).

use std::net::IpAddr;

use crate::packet::Protocol;

/// A ones' complement sum under way. Parts must be added at even offsets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The pseudo-header of TCP, UDP and ICMPv6: both addresses, protocol, transport length (RFC 9293 §3.1, RFC 8200
    /// §8.1). Addresses of different families give a sum that verifies nothing.
    pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: Protocol, transport_len: usize) -> Sum {
        let addresses = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => word(src.octets()) + word(dst.octets()),
            (src, dst) => halves_of(src) + halves_of(dst),
        };
        Sum(addresses + word(u32::from(protocol.0).to_be_bytes()) + word((transport_len as u32).to_be_bytes()))
    }

    /// Adds bytes; an odd last byte is padded with zero.
    #[must_use]
    #[inline]
    pub fn plus(self, bytes: &[u8]) -> Sum {
        // Carries out of 64 bits gather in the upper halves: an add and an add-with-carry for eight bytes. Two sums, so
        // that neither waits for the other.
        let (mut one, mut two) = (u128::from(self.0), 0u128);
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            one += u128::from(u64::from_ne_bytes(words[0]));
            two += u128::from(u64::from_ne_bytes(words[1]));
            one += u128::from(u64::from_ne_bytes(words[2]));
            two += u128::from(u64::from_ne_bytes(words[3]));
        }
        let (words, rest) = rest.as_chunks::<8>();
        for word in words {
            one += u128::from(u64::from_ne_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0u8; 8];
            last[..rest.len()].copy_from_slice(rest);
            two += u128::from(u64::from_ne_bytes(last));
        }
        // 2^16 is 1 in this arithmetic, and so are 2^32 and 2^64: halves add up.
        let total = one + two;
        let halves = u128::from(total as u64) + (total >> 64);
        let total = (halves as u64).wrapping_add((halves >> 64) as u64);
        Sum((total & 0xffff_ffff) + (total >> 32))
    }

    /// The sum itself, folded to 16 bits: what a partial checksum field carries.
    pub fn partial(self) -> u16 {
        let mut total = self.0;
        while total >> 16 != 0 {
            total = (total & 0xffff) + (total >> 16);
        }
        u16::from_be(total as u16)
    }

    /// The checksum: the complement of the sum. 0 over data that carries its own valid checksum.
    pub fn finish(self) -> u16 {
        !self.partial()
    }
}

fn word(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(bytes))
}

/// An address as the sum of its words; at most 34 bits.
fn halves_of(addr: IpAddr) -> u64 {
    match addr {
        IpAddr::V4(v4) => word(v4.octets()),
        IpAddr::V6(v6) => v6.octets().as_chunks::<4>().0.iter().map(|bytes| word(*bytes)).sum(),
    }
}

/// The checksum over `bytes` alone, as IPv4 headers and ICMPv4 use it.
pub fn internet(bytes: &[u8]) -> u16 {
    Sum::default().plus(bytes).finish()
}

/// The checksum of a TCP, UDP or ICMPv6 message whose own checksum field is zero.
///
/// UDP sends 0xffff where this is 0, because 0 there means "none" (RFC 768).
pub fn transport(src: IpAddr, dst: IpAddr, protocol: Protocol, message: &[u8]) -> u16 {
    let sum = Sum::pseudo_header(src, dst, protocol, message.len()).plus(message).finish();
    if sum == 0 && protocol == Protocol::UDP { 0xffff } else { sum }
}

/// Whether a TCP, UDP or ICMPv6 message carries the right checksum.
pub fn transport_is_valid(src: IpAddr, dst: IpAddr, protocol: Protocol, message: &[u8]) -> bool {
    Sum::pseudo_header(src, dst, protocol, message.len()).plus(message).finish() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_worked_example_of_rfc_1071_holds() {
        // RFC 1071 §3: the sum of these bytes is ddf2.
        assert_eq!(Sum::default().plus(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).partial(), 0xddf2);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_equals_the_sum_word_by_word(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            let mut slow = 0u64;
            for pair in bytes.chunks(2) {
                slow += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
            }
            while slow >> 16 != 0 {
                slow = (slow & 0xffff) + (slow >> 16);
            }
            prop_assert_eq!(internet(&bytes), !(slow as u16));
            let (head, tail) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(Sum::default().plus(head).plus(tail).finish(), internet(&bytes));
        }
    }
}
